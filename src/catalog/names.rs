//! File names of images: an exact, reversible encoding, and who gets the plain name.
//!
//! Only what no file name can hold is percent-encoded: `/`, `%`, NUL and control bytes. `.` and `..`
//! become `%2E` and `%2E%2E`; `.by-id`, `.glancefs` and `.nova-base` get `%2E` for their dot; a name that
//! itself ends in `~` and 8 or more hex digits has that `~` written `%7E`, since this is how the second
//! image of a name is told from the first. An image without a name is `%null~<id8>`, one with an
//! empty name `%empty~<id8>`; neither can be the encoding of a name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::error::{Error, Kind, Result};
use crate::glance::{Image, Status};
use crate::units::ImageId;

/// The longest file name the kernel takes, in bytes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;

/// The longest name Glance takes, in characters.
const GLANCE_NAME_MAX: usize = 255;

/// Hex digits of an id that tell images of one name apart; more where 8 are not enough.
const SHORT_ID: usize = 8;

/// Names of the root that are not images.
pub(super) const RESERVED: [&str; 3] = [".by-id", ".glancefs", ".nova-base"];

/// The file name of an image called `name`, before anything is said about others of that name.
pub fn encode(name: &str) -> String {
    if name == "." || name == ".." {
        return name.replace('.', "%2E");
    }
    let marker = suffix(name).map(|(base, _)| base.len());
    let mut encoded = String::with_capacity(name.len());
    for (at, character) in name.char_indices() {
        let reserved_dot = at == 0 && RESERVED.contains(&name);
        if character == '/'
            || character == '%'
            || character.is_ascii_control()
            || reserved_dot
            || Some(at) == marker
        {
            encoded.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            encoded.push(character);
        }
    }
    encoded
}

/// The name that a file name stands for. A `%` that begins no escape stands for itself, so that
/// `cp x 'mnt/100%'` does what it says. `None` when the escapes do not make UTF-8.
pub fn decode(file_name: &str) -> Option<String> {
    let bytes = file_name.as_bytes();
    let mut name = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let value = escape
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value {
            Some(byte) => {
                name.push(byte);
                at += 3;
            }
            None => {
                name.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(name).ok()
}

/// Splits `base~<8 or more hex digits, or such an id with dashes>`.
fn suffix(name: &str) -> Option<(&str, &str)> {
    let (base, id) = name.rsplit_once('~')?;
    let digits = id.bytes().take_while(u8::is_ascii_hexdigit).count();
    let rest_is_id = id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (digits >= SHORT_ID && rest_is_id).then_some((base, id))
}

/// The name under which Glance shall keep a file that is to be created as `file_name`.
///
/// # Errors
/// `NameTooLong` beyond Glance's 255 characters; `IllegalName` for bytes that are not UTF-8 and for
/// 4-byte characters, which Glance refuses; `Invalid` for a name that ends as those of duplicates
/// do, since the image would not be found under it.
pub fn name_for_new(file_name: &std::ffi::OsStr) -> Result<String> {
    let illegal = |why: &str| Error::new(Kind::IllegalName, format!("{file_name:?} {why}"));
    let text = file_name.to_str().ok_or_else(|| illegal("is not UTF-8, as names in Glance are"))?;
    if suffix(text).is_some() {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "{text:?} ends in ~ and hex digits, which tells images of one name apart: write %7E for the ~"
            ),
        ));
    }
    let name = decode(text).ok_or_else(|| illegal("does not decode to UTF-8"))?;
    if name.chars().any(|character| character.len_utf8() == 4) {
        return Err(illegal("has a character beyond U+FFFF, which Glance does not store"));
    }
    if name.chars().count() > GLANCE_NAME_MAX {
        return Err(Error::new(Kind::NameTooLong, "Glance takes names of up to 255 characters"));
    }
    if name.is_empty() {
        return Err(Error::new(Kind::Invalid, "a new image needs a name"));
    }
    Ok(name)
}

/// A name as Glance keeps it; `None`: the record says null.
type Name = Option<Arc<str>>;

/// The file names of one list of images. A copy shares what it has in common with the original, and a
/// change costs as much as the images of the name that it is about.
#[derive(Debug, Clone, Default)]
pub struct FileNames {
    /// Our own project.
    project: Option<Arc<str>>,
    by_file_name: OrdMap<Arc<str>, ImageId>,
    /// The images of each name, the one with the plain file name first.
    by_name: OrdMap<Name, Arc<[ImageId]>>,
}

impl FileNames {
    /// No names yet; `project` is our own.
    pub(super) fn of_project(project: Option<&str>) -> Self {
        Self { project: project.map(Arc::from), ..Self::default() }
    }

    /// Every file name with its image, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &ImageId)> {
        self.by_file_name.iter()
    }

    /// The image that is listed under exactly this file name.
    pub fn listed(&self, file_name: &str) -> Option<&ImageId> {
        self.by_file_name.get(file_name)
    }

    /// The image that a file name means: as listed, `name~<id prefix>` of any image of that name,
    /// or any other spelling of the plain name.
    pub fn find(&self, file_name: &str) -> Option<&ImageId> {
        if let Some(id) = self.by_file_name.get(file_name) {
            return Some(id);
        }
        let group = |name: Name| self.by_name.get(&name).map_or(&[][..], |ids| ids);
        if let Some((base, prefix)) = suffix(file_name) {
            let group = match base {
                "%null" => group(None),
                "%empty" => group(Some("".into())),
                base => group(Some(decode(base)?.into())),
            };
            let mut matching = group.iter().filter(|id| id.as_str().starts_with(prefix));
            return matching.next().filter(|_| matching.next().is_none());
        }
        let name = decode(file_name).filter(|name| !name.is_empty())?;
        group(Some(name.into())).first()
    }

    /// The file names of `self` that are not there in `new`, or there for another image.
    pub fn lost_in<'a>(&'a self, new: &'a Self) -> impl Iterator<Item = (&'a Arc<str>, &'a ImageId)> {
        self.by_file_name.diff(&new.by_file_name).filter_map(|change| match change {
            DiffItem::Add(..) => None,
            DiffItem::Update { old: (name, id), .. } | DiffItem::Remove(name, id) => Some((name, id)),
        })
    }

    /// Names some images anew, and with them those of the same names, after the list has changed:
    /// `touched` has the images as they were before and as they are now, `image` finds what is listed now.
    pub(super) fn assign<'a>(
        &mut self,
        mut touched: Vec<Arc<Image>>,
        image: impl Fn(&ImageId) -> Option<&'a Image>,
    ) {
        touched.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        for alike in touched.chunk_by(|one, other| one.name == other.name) {
            let name: Name = alike.first().and_then(|image| image.name.clone());
            let before = self.by_name.get(&name).cloned().unwrap_or_default();
            let ids: BTreeSet<&ImageId> = before.iter().chain(alike.iter().map(|image| &image.id)).collect();
            let has_name = |image: &&Image| image.name.as_deref() == name.as_deref();
            let mut group: Vec<&Image> = ids.into_iter().filter_map(&image).filter(has_name).collect();
            group.sort_by_key(|image| precedence(image, self.project.as_deref()));
            let now: Arc<[ImageId]> = group.into_iter().map(|image| image.id.clone()).collect();
            if now == before {
                continue;
            }
            let (old, new) = (file_names(name.as_ref(), &before), file_names(name.as_ref(), &now));
            for file_name in old.keys().filter(|file_name| !new.contains_key(*file_name)) {
                self.by_file_name.remove(file_name);
            }
            for (file_name, id) in new.into_iter().filter(|(file_name, id)| old.get(file_name) != Some(id)) {
                self.by_file_name.insert(file_name, id.clone());
            }
            if now.is_empty() {
                self.by_name.remove(&name)
            } else {
                self.by_name.insert(name, now)
            };
        }
    }
}

/// Whether it matters to names that `old` is now `new`.
pub(super) fn matters(old: Option<&Image>, new: Option<&Image>) -> bool {
    fn facts(image: &Image) -> impl PartialEq {
        (&image.name, image.status == Status::Active, image.created_at, &image.owner)
    }
    old.map(facts) != new.map(facts)
}

/// The name to ask the server for when no listed image has this file name.
pub fn name_to_ask_for(file_name: &str) -> Option<String> {
    let base = suffix(file_name).map_or(file_name, |(base, _)| base);
    if base.starts_with("%null") || base.starts_with("%empty") {
        return None;
    }
    decode(base).filter(|name| !name.is_empty() && name.chars().count() <= GLANCE_NAME_MAX)
}

/// Who comes first among images of one name: our own project's, then active ones, then the oldest,
/// so that a path a hypervisor uses cannot be taken over by an image that somebody adds later.
fn precedence<'a>(image: &'a Image, project: Option<&str>) -> impl Ord + use<'a> {
    let foreign = project.is_some() && image.owner.as_deref() != project;
    let inactive = image.status != Status::Active;
    (foreign, inactive, image.created_at, image.id.as_str())
}

/// The file names of the images of one name, in their order of precedence.
fn file_names<'a>(name: Option<&Arc<str>>, group: &'a [ImageId]) -> BTreeMap<Arc<str>, &'a ImageId> {
    let short = short_ids(group);
    let named = group.iter().enumerate().map(|(place, id)| {
        let file_name = file_name(name.map(|name| &**name), place == 0, short[id], id.as_str());
        let text = match name {
            // Most names are file names as they are, and then share their memory.
            Some(name) if **name == *file_name => Arc::clone(name),
            _ => file_name.into(),
        };
        (text, id)
    });
    named.collect()
}

fn file_name(name: Option<&str>, first: bool, short_id: &str, id: &str) -> String {
    let encoded = match name {
        None => return format!("%null~{short_id}"),
        Some("") => return format!("%empty~{short_id}"),
        Some(name) => encode(name),
    };
    let full = if first { encoded.clone() } else { format!("{encoded}~{short_id}") };
    if full.len() <= NAME_MAX {
        return full;
    }
    let mut cut = NAME_MAX.saturating_sub(1 + id.len());
    while !encoded.is_char_boundary(cut) {
        cut -= 1;
    }
    // Not through an escape: `%2` would read as a literal.
    if let Some(percent) = encoded[..cut].rfind('%').filter(|percent| cut - percent < 3) {
        cut = percent;
    }
    format!("{}~{id}", &encoded[..cut])
}

/// Of each id the first 8 characters, or as many as tell it from the others.
fn short_ids(group: &[ImageId]) -> HashMap<&ImageId, &str> {
    let mut sorted: Vec<&str> = group.iter().map(ImageId::as_str).collect();
    sorted.sort_unstable();
    // In this order the ids most like one are beside it.
    let place = |id: &str| sorted.binary_search(&id).unwrap_or(0);
    let alike = |one: &str, other: &str| one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let short = |id: &ImageId| {
        let (id, place) = (id.as_str(), place(id.as_str()));
        let before = place.checked_sub(1).and_then(|before| sorted.get(before));
        let neighbours = before.into_iter().chain(sorted.get(place + 1));
        let most_alike = neighbours.map(|other| alike(id, other)).max().unwrap_or(0);
        (most_alike + 1).max(SHORT_ID)
    };
    group.iter().map(|id| (id, id.as_str().get(..short(id)).unwrap_or(id.as_str()))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::catalog::Snapshot;

    fn image(id: u32, name: Option<&str>) -> Image {
        let record = serde_json::json!({
            "id": format!("{id:08x}-0000-4000-8000-000000000000"), "name": name, "status": "active",
            "owner": "ours", "visibility": "private", "size": 1, "protected": false,
            "created_at": "2026-11-20T10:00:00Z", "updated_at": "2026-11-20T10:00:00Z",
        });
        Image::from_record(&record.to_string()).unwrap()
    }

    fn list(images: impl IntoIterator<Item = Image>) -> Snapshot {
        Snapshot::of(images, Some("ours"))
    }

    fn names(images: impl IntoIterator<Item = Image>) -> FileNames {
        list(images).names().clone()
    }

    fn named(names: &FileNames, id: u32) -> String {
        let id = image(id, None).id;
        names.iter().find(|(_, named)| **named == id).unwrap().0.to_string()
    }

    #[test]
    fn only_what_no_file_name_can_hold_is_encoded() {
        for (name, file_name) in [
            ("debian-12.qcow2", "debian-12.qcow2"),
            (" leading and trailing ", " leading and trailing "),
            ("-rf", "-rf"),
            ("\u{6c49}\u{5b57}", "\u{6c49}\u{5b57}"),
            ("a/b", "a%2Fb"),
            ("100%", "100%25"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "..."),
            (".by-id", "%2Eby-id"),
            (".glancefs", "%2Eglancefs"),
            (".nova-base", "%2Enova-base"),
            (".hidden", ".hidden"),
            ("two\nlines\u{7f}", "two%0Alines%7F"),
            ("backup~deadbeef", "backup%7Edeadbeef"),
            ("x~y", "x~y"),
            ("x~1f3c9a2", "x~1f3c9a2"),
        ] {
            assert_eq!(encode(name), file_name);
            assert_eq!(decode(file_name).as_deref(), Some(name), "and back");
        }
    }

    #[test]
    fn images_without_a_name_have_one_that_no_name_encodes_to() {
        let names = names([image(1, None), image(2, Some("")), image(3, Some("%null~00000001"))]);
        assert_eq!(named(&names, 1), "%null~00000001");
        assert_eq!(named(&names, 2), "%empty~00000002");
        assert_eq!(named(&names, 3), "%25null%7E00000001");
        assert_eq!(names.find("%null~00000001"), Some(&image(1, None).id));
    }

    #[test]
    fn the_plain_name_stays_with_the_oldest_of_our_own_active_images() {
        let at = |image: Image, seconds| Image {
            created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            ..image
        };
        let oldest = at(image(1, Some("x")), 10);
        let newer = at(image(2, Some("x")), 20);
        let foreign = Image { owner: Some("others".into()), ..at(image(3, Some("x")), 1) };
        let inactive = Image { status: Status::Queued, ..at(image(4, Some("x")), 2) };
        let names = names([newer, foreign, inactive, oldest]);
        assert_eq!(named(&names, 1), "x");
        assert_eq!(named(&names, 2), "x~00000002");
        assert_eq!(named(&names, 3), "x~00000003");
        assert_eq!(named(&names, 4), "x~00000004");
        assert_eq!(names.find("x~00000001"), Some(&image(1, None).id), "the first too, by its id");
        assert_eq!(names.find("x~00000009"), None);
    }

    #[test]
    fn ids_that_begin_alike_get_longer_suffixes() {
        let alike =
            |tail: &str| Image { id: format!("0000000a-{tail}").parse().unwrap(), ..image(10, Some("x")) };
        let names = names([alike("aaaa"), alike("abbb"), image(1, Some("x"))]);
        assert_eq!(named(&names, 1), "x");
        assert!(names.find("x~0000000a-ab").is_some());
        assert!(names.find("x~0000000a-aa").is_some());
        assert_eq!(names.find("x~0000000a"), None, "two could be meant");
    }

    #[test]
    fn names_longer_than_the_kernel_takes_end_in_the_whole_id() {
        let name = "\u{6c49}".repeat(255);
        let names = names([image(7, Some(&name)), image(8, Some(&name))]);
        for id in [7, 8] {
            let file_name = named(&names, id);
            assert!(file_name.len() <= NAME_MAX);
            assert!(file_name.ends_with(&format!("~{id:08x}-0000-4000-8000-000000000000")), "{file_name}");
            assert_eq!(names.find(&file_name), Some(&image(id, None).id));
        }
    }

    #[test]
    fn a_new_name_is_refused_when_it_could_not_be_found_again() {
        let refused = |name: &str| name_for_new(name.as_ref()).unwrap_err().kind();
        assert_eq!(refused("x~1f3c9a2b"), Kind::Invalid);
        assert_eq!(refused("emoji \u{1f600}"), Kind::IllegalName);
        assert_eq!(refused("%FF"), Kind::IllegalName);
        assert_eq!(refused(&"x".repeat(256)), Kind::NameTooLong);
        assert_eq!(name_for_new("100%".as_ref()).unwrap(), "100%");
        assert_eq!(name_for_new("a%2Fb".as_ref()).unwrap(), "a/b");
        assert_eq!(name_for_new("backup%7Edeadbeef".as_ref()).unwrap(), "backup~deadbeef");
    }

    proptest! {
        #[test]
        fn every_name_leads_back_to_its_image(texts in prop::collection::vec(".{0,300}|[a-f0-9~%./]{0,20}", 1..12)) {
            let images: Vec<_> = texts.iter().enumerate()
                .map(|(id, name)| image(u32::try_from(id).unwrap(), Some(name)))
                .collect();
            let names = names(images.clone());
            prop_assert_eq!(names.iter().count(), images.len(), "no two images share a file name");
            for (file_name, id) in names.iter() {
                prop_assert!(file_name.len() <= NAME_MAX);
                prop_assert!(!file_name.contains(['/', '\0']) && &**file_name != "." && &**file_name != "..");
                prop_assert!(!RESERVED.contains(&&**file_name));
                prop_assert_eq!(names.find(file_name), Some(id));
            }
        }

        #[test]
        fn encoding_is_reversible(name in "\\PC*") {
            prop_assert_eq!(decode(&encode(&name)), Some(name));
        }
    }
}
