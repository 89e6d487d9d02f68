//! What a VMDK says of itself: its descriptor, a text after the header, may name other files.
//!
//! The rules are those of Nova and Glance (oslo.utils, `format_inspector.VMDKInspector`), which refuse all but
//! `monolithicSparse` and `streamOptimized`; and a parent, which theirs do not look for. The layout is that of VMware's
//! "Virtual Disk Format 5.0" as QEMU reads it.

/// The bytes at the end of a `streamOptimized` image that its footer takes: marker, header, end-of-stream marker.
pub const FOOTER_BYTES: u64 = 3 * SECTOR as u64;

const SECTOR: usize = 512;
/// Where the descriptor begins, in QEMU and in Glance.
const DESCRIPTOR_AT: u64 = 512;
/// In place of the offset of the grain directory: it is told by a footer, whose header is the one that counts.
const AT_END: u64 = u64::MAX;

/// Offsets in the header (little-endian).
const VERSION: usize = 4;
const DESCRIPTOR_SECTOR: usize = 28;
const DESCRIPTOR_SECTORS: usize = 36;
const GRAIN_DIRECTORY: usize = 56;

const CONVERT: &str =
    "this VMDK may name other files: convert it with qemu-img convert -O vmdk -o subformat=streamOptimized";
const PARENT: &str =
    "this VMDK needs a parent: flatten it with qemu-img convert -O vmdk -o subformat=streamOptimized";
const FOOTER: &str = "this VMDK has a footer that contradicts its header: convert it with qemu-img convert -O vmdk -o subformat=streamOptimized";

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Why a VMDK with a header (`KDMV`) is not to be used. A header that is cut off is left to who reads it.
pub(super) fn objection(head: &[u8]) -> Option<&'static str> {
    let (sector, sectors) = (number(head, DESCRIPTOR_SECTOR)?, number(head, DESCRIPTOR_SECTORS)?);
    if sector.checked_mul(SECTOR as u64) != Some(DESCRIPTOR_AT) {
        return Some(CONVERT);
    }
    let area = head.get(DESCRIPTOR_AT as usize..).unwrap_or_default();
    // A size that fits no memory fits no head either.
    let size = usize::try_from(sectors.saturating_mul(SECTOR as u64)).unwrap_or(usize::MAX);
    let area = &area[..area.len().min(size)];
    // The text is padded with NUL to its area, unless it fills it.
    let end = area.iter().position(|byte| *byte == 0);
    let text = match end {
        Some(end) => &area[..end],
        None if area.len() == size => area,
        None => return Some(CONVERT),
    };
    match std::str::from_utf8(text) {
        Ok(text) if text.is_ascii() => descriptor_objection(&text.to_ascii_lowercase()),
        _ => Some(CONVERT),
    }
}

/// Every line must be one that is understood.
fn descriptor_objection(text: &str) -> Option<&'static str> {
    let (mut known_type, mut extents) = (false, 0);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let extent = ["rw ", "rdonly ", "noaccess "].iter().any(|access| line.starts_with(access));
        if extent {
            extents += 1;
            if line.contains(['/', '\\']) {
                return Some(CONVERT);
            }
        } else if let Some((key, value)) =
            line.split_once('=').filter(|(key, _)| !key.trim_end().contains(' '))
        {
            let value = value.trim().trim_matches('"');
            match key.trim_end() {
                "createtype" if matches!(value, "monolithicsparse" | "streamoptimized") => known_type = true,
                "createtype" => return Some(CONVERT),
                "parentfilenamehint" => return Some(PARENT),
                _ => {}
            }
        } else if !line.starts_with("ddb") {
            return Some(CONVERT);
        }
    }
    (!known_type || extents != 1).then_some(CONVERT)
}

/// The VMDK that begins with `head` ends with a footer, whose header goes before the first.
pub fn has_footer(head: &[u8]) -> bool {
    head.starts_with(b"KDMV") && number(head, GRAIN_DIRECTORY) == Some(AT_END)
}

/// Why the footer (`tail`: the last [`FOOTER_BYTES`]) makes another image of what `head` showed.
pub fn footer_objection(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    /// The type of a footer's marker.
    const IS_FOOTER: u64 = 3 << 32;
    let [marker, footer, end] = [0, 1, 2].map(|sector| tail.get(sector * SECTOR..(sector + 1) * SECTOR));
    let agrees = || {
        let (marker, footer, end) = (marker?, footer?, end?);
        // Size 0 and the type, as one number.
        let marked = number(marker, 8)? == IS_FOOTER && marker[16..].iter().all(|byte| *byte == 0);
        let ended = end.iter().all(|byte| *byte == 0);
        let same = footer[..VERSION + 4] == *head.get(..VERSION + 4)?
            && number(footer, DESCRIPTOR_SECTOR)? == number(head, DESCRIPTOR_SECTOR)?
            && number(footer, DESCRIPTOR_SECTORS)? == number(head, DESCRIPTOR_SECTORS)?;
        Some(marked && ended && same && number(footer, GRAIN_DIRECTORY)? != AT_END)
    };
    (agrees() != Some(true)).then_some(FOOTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header and this descriptor.
    fn vmdk(descriptor: &str) -> Vec<u8> {
        let mut head = vec![0; 2048];
        head[..4].copy_from_slice(b"KDMV");
        head[DESCRIPTOR_SECTOR] = 1;
        head[DESCRIPTOR_SECTORS] = 3;
        head[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
        head
    }

    const GOOD: &str = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n\
                        RW 4096 SPARSE \"x.vmdk\"\nddb.adapterType = \"ide\"\n";

    #[test]
    fn only_whole_images_that_name_no_other_file_are_taken() {
        assert_eq!(objection(&vmdk(GOOD)), None);
        for (what, text) in [
            ("flat", GOOD.replace("monolithicSparse", "monolithicFlat")),
            ("no type", GOOD.replace("createType", "other")),
            ("no extent", GOOD.replace("RW 4096", "# RW 4096")),
            ("a path", GOOD.replace("x.vmdk", "/etc/shadow")),
            ("a path of Windows", GOOD.replace("x.vmdk", "..\\x")),
            ("two extents", GOOD.replace("RW ", "RW 1 FLAT \"y\" 0\nRW ")),
            ("a parent", format!("{GOOD}parentFileNameHint=\"base.vmdk\"\n")),
            ("a line that is not understood", format!("{GOOD}include other\n")),
            ("no text", "\u{ff}".to_owned()),
        ] {
            assert!(objection(&vmdk(&text)).is_some(), "{what}");
        }
    }

    #[test]
    fn a_descriptor_elsewhere_or_without_end_is_refused() {
        let mut elsewhere = vmdk(GOOD);
        elsewhere[DESCRIPTOR_SECTOR] = 2;
        assert!(objection(&elsewhere).is_some());
        let mut endless = vmdk(GOOD);
        endless[DESCRIPTOR_SECTORS + 4] = 1;
        endless[512..].iter_mut().for_each(|byte| *byte = (*byte).max(b'#'));
        assert!(objection(&endless).is_some());
        assert_eq!(objection(b"KDMV"), None, "it is cut off: nobody can use it");
    }

    #[test]
    fn a_footer_must_say_what_the_header_says() {
        let mut head = vmdk(GOOD);
        head[GRAIN_DIRECTORY..GRAIN_DIRECTORY + 8].copy_from_slice(&[0xff; 8]);
        assert!(has_footer(&head) && !has_footer(&vmdk(GOOD)));
        let mut tail = vec![0; FOOTER_BYTES as usize];
        tail[12] = 3;
        tail[512..1024].copy_from_slice(&head[..512]);
        tail[512 + GRAIN_DIRECTORY..512 + GRAIN_DIRECTORY + 8].copy_from_slice(&[9; 8]);
        assert_eq!(footer_objection(&head, &tail), None);
        for (at, byte) in [(12, 2), (512, b'X'), (512 + DESCRIPTOR_SECTOR, 7), (1024, 1), (20, 1)] {
            let mut other = tail.clone();
            other[at] = byte;
            assert!(footer_objection(&head, &other).is_some(), "{at}");
        }
        assert!(footer_objection(&head, &tail[1..]).is_some());
    }
}
