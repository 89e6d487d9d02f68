//! What a new image takes over: from the record reserved for it, or from the image it replaces.

use serde_json::{Map, Value};

use super::Metadata;
use crate::error::{Error, Kind, Result};
use crate::format::Content;
use crate::glance::{Image, KEPT_MTIME, PROFILE_PROPERTY};

/// Attributes that are not carried over: Glance sets them, or this upload does, or (`protected`)
/// they are set once the data are there, or (`owner`) only when it is not us anyway.
const OWN: [&str; 22] = [
    "id",
    "name",
    "status",
    "size",
    "virtual_size",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "created_at",
    "updated_at",
    "deleted_at",
    "deleted",
    "file",
    "self",
    "schema",
    "direct_url",
    "locations",
    "stores",
    "disk_format",
    "container_format",
    "protected",
    "owner",
];

/// Properties that belong to the data (a signature, another client's hashes) or to the server: neither an image
/// that replaces another nor a copy takes them over.
pub fn describes_data(key: &str) -> bool {
    key.starts_with("os_glance_")
        || [KEPT_MTIME, PROFILE_PROPERTY].contains(&key)
        || key.starts_with("img_signature")
        || ["md5", "sha256", "object"]
            .iter()
            .any(|last| key.strip_prefix("owner_specified.openstack.") == Some(last))
}

/// The attributes and properties of `old` that its replacement starts with.
///
/// `project` is ours: an image of another project stays that project's, which only an
/// administrator may do; anybody else is refused by Glance and the old image stays.
///
/// # Errors
/// `Integrity` when the record is not a JSON object.
pub(super) fn attributes_of(old: &Image, project: Option<&str>) -> Result<Vec<(String, Value)>> {
    let damaged = |error| {
        Error::new(Kind::Integrity, format!("the record of image {} is not a JSON object", old.id))
            .with_source(error)
    };
    let text = old.record.text().ok_or_else(|| {
        Error::new(Kind::Integrity, format!("the record of image {} is not at hand", old.id))
    })?;
    let record: Map<String, Value> = serde_json::from_str(text).map_err(damaged)?;
    let mut carried: Vec<(String, Value)> = record
        .into_iter()
        .filter(|(key, value)| !OWN.contains(&key.as_str()) && !describes_data(key) && !value.is_null())
        .collect();
    if let Some(owner) = old.owner.as_deref()
        && project != Some(owner)
    {
        carried.push(("owner".into(), owner.into()));
    }
    Ok(carried)
}

/// `disk_format` and `container_format` for an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Formats {
    pub(super) disk: String,
    pub(super) container: String,
}

/// The formats for `content`, where `record` (a reservation, or the replaced image) may have a say.
///
/// The content decides, because other tools set `raw` without being asked (`openstack image
/// create` does). But a container other than `bare`, and formats without any mark in their content
/// (kernels and ramdisks), are known to nobody but the person who set them.
///
/// What was asked for this very upload goes before all of it; what a copy brings along counts as a record's.
pub(super) fn formats(content: &Content, record: Option<&Image>, asked: &Metadata) -> Formats {
    asked.decide(told(content, record, asked))
}

fn told(content: &Content, record: Option<&Image>, asked: &Metadata) -> Formats {
    let (disk, container) =
        record.map_or((&None, &None), |image| (&image.disk_format, &image.container_format));
    let set = |key: &str, value: &Option<std::sync::Arc<str>>| {
        let copied = asked.copied_formats.get(key).map(String::as_str);
        copied.or(value.as_deref()).unwrap_or_default().to_owned()
    };
    let (disk, container) = (set("disk_format", disk), set("container_format", container));
    if !matches!(container.as_str(), "" | "bare") {
        let disk = if disk.is_empty() { content.format.to_owned() } else { disk };
        return Formats { disk, container };
    }
    let unmarked = content.is_unmarked() && matches!(disk.as_str(), "ami" | "ari" | "aki");
    Formats { disk: if unmarked { disk } else { content.format.to_owned() }, container: "bare".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::fake;

    fn content(format: &'static str) -> Content {
        Content { format, objection: None }
    }

    fn with_formats(disk: Option<&str>, container: Option<&str>) -> Image {
        let mut image = fake::image(1);
        image.disk_format = disk.map(Into::into);
        image.container_format = container.map(Into::into);
        image
    }

    #[test]
    fn the_content_decides_the_format() {
        let none = Metadata::default();
        let bare = |disk: &str| Formats { disk: disk.into(), container: "bare".into() };
        assert_eq!(formats(&content("qcow2"), None, &none), bare("qcow2"));
        for (disk, container) in [(None, None), (Some("raw"), Some("bare")), (Some("vmdk"), None)] {
            assert_eq!(
                formats(&content("qcow2"), Some(&with_formats(disk, container)), &none),
                bare("qcow2")
            );
        }
        assert_eq!(
            formats(&content("raw"), Some(&with_formats(Some("qcow2"), Some("bare"))), &none),
            bare("raw")
        );
    }

    #[test]
    fn what_no_content_tells_stays_as_it_was_set() {
        let none = Metadata::default();
        let ova = with_formats(Some("vmdk"), Some("ova"));
        assert_eq!(
            formats(&content("raw"), Some(&ova), &none),
            Formats { disk: "vmdk".into(), container: "ova".into() }
        );
        let kernel = with_formats(Some("aki"), Some("bare"));
        assert_eq!(formats(&content("raw"), Some(&kernel), &none).disk, "aki");
        assert_eq!(formats(&content("iso"), Some(&kernel), &none).disk, "iso");
    }

    #[test]
    fn what_was_asked_for_goes_before_the_content_and_what_was_copied_fills_its_gaps() {
        let with = |copied: &[(&str, &str)], asked: &[(&str, &str)]| {
            let text = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
            let value = |pair: &(&str, &str)| (pair.0.to_owned(), Value::from(pair.1));
            let copied_formats = copied.iter().map(text).collect();
            let record = asked.iter().map(value).collect();
            let found =
                formats(&content("raw"), None, &Metadata { record, copied_formats, ..Metadata::default() });
            format!("{} {}", found.disk, found.container)
        };
        assert_eq!(with(&[("disk_format", "qcow2"), ("container_format", "bare")], &[]), "raw bare");
        assert_eq!(with(&[("disk_format", "vmdk"), ("container_format", "ova")], &[]), "vmdk ova");
        assert_eq!(with(&[("disk_format", "ami")], &[]), "ami bare");
        assert_eq!(with(&[], &[("disk_format", "iso")]), "iso bare");
    }

    #[test]
    fn a_replacement_takes_over_what_describes_the_image_and_not_what_describes_its_data() {
        let mut old = fake::image(1);
        old.owner = Some("ours".into());
        old.record = r#"{"id": "x", "name": "n", "visibility": "community", "min_disk": 5, "min_ram": 0,
            "tags": ["a"], "os_hidden": true, "protected": true, "size": 7, "checksum": "c", "os_hash_algo": "a",
            "os_hash_value": "v", "stores": "file", "owner": "ours", "hw_disk_bus": "virtio", "kernel_id": null,
            "os_glance_import_task": "", "img_signature_key_type": "RSA", "owner_specified.openstack.md5": "m",
            "owner_specified.openstack.other": "o", "disk_format": "raw", "container_format": "bare"}"#
            .into();
        let mut carried = attributes_of(&old, Some("ours")).unwrap();
        carried.sort_by(|a, b| a.0.cmp(&b.0));
        let keys: Vec<&str> = carried.iter().map(|(key, _)| key.as_str()).collect();
        let expected = [
            "hw_disk_bus",
            "min_disk",
            "min_ram",
            "os_hidden",
            "owner_specified.openstack.other",
            "tags",
            "visibility",
        ];
        assert_eq!(keys, expected);
        assert!(attributes_of(&old, Some("another")).unwrap().contains(&("owner".into(), "ours".into())));
        old.record = "[]".into();
        assert_eq!(attributes_of(&old, None).unwrap_err().kind(), Kind::Integrity);
    }
}
