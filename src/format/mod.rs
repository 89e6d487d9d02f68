//! The `disk_format` of an image, told from its content, and what makes such a content unsafe to use.
//!
//! Glance (since 2025.1) inspects `bare` uploads and answers 415 where content and `disk_format`
//! differ, after the whole body was sent. So this follows what Glance itself recognises (checked
//! against Glance 33.0.0 with files made by qemu-img and xorriso), and what Glance takes as `raw`
//! is `raw` here.

mod vmdk;

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

pub use self::vmdk::{FOOTER_BYTES, footer_objection, has_footer};

/// The bytes at the start of an image that tell its format: the mark of an ISO 9660 file system ends at 32774, and the
/// descriptor of a VMDK has 10 KiB from `qemu-img` and VMware's tools.
pub const HEAD_BYTES: u64 = 64 * 1024;

/// What an image's content says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The value for `disk_format`.
    pub format: &'static str,
    /// Why nobody could use such an image in a cloud, and what to do about it.
    pub objection: Option<&'static str>,
}

impl Content {
    const fn plain(format: &'static str) -> Self {
        Self { format, objection: None }
    }

    /// A format of `qemu-img` with tables of its own; an ISO is written in one go.
    pub fn is_formatted(&self) -> bool {
        matches!(self.format, "qcow2" | "vmdk" | "vhdx" | "vhd" | "vdi")
    }

    /// The content has no mark of a format: it may be anything.
    pub fn is_unmarked(&self) -> bool {
        self.format == "raw"
    }

    /// Why an image with this content, recorded with these formats, should not be used: for a person.
    ///
    /// Only what is in a bare container is looked at, as Glance does. Formats that have no mark, or that a site has
    /// defined for itself, are taken as they are. So is unmarked content as `vhd`: the mark of a fixed VHD is at its
    /// end, and an image that names no other file can harm nobody by being something else.
    pub fn danger(&self, disk_format: Option<&str>, container_format: Option<&str>) -> Option<String> {
        if container_format.is_some_and(|container| container != "bare") {
            return None;
        }
        if let Some(objection) = self.objection {
            return Some(objection.to_owned());
        }
        let recorded = match disk_format? {
            "gpt" => "raw",
            "vhd" if self.is_unmarked() => return None,
            known @ ("raw" | "qcow2" | "vmdk" | "vhdx" | "vhd" | "vdi" | "iso" | "ploop") => known,
            _ => return None,
        };
        let found = self.format;
        (recorded != found).then(|| match self.is_unmarked() {
            true => format!("it is recorded as {recorded} and has no mark of that format"),
            false => format!("it is recorded as {recorded} and its content is {found}"),
        })
    }
}

/// Magic bytes at the start of the image.
///
/// A fixed VHD is not among them: its mark is in its last 512 bytes, Glance does not look there and
/// refuses it as `vhd`; as `raw`, which it is but for that footer, it is taken.
const MAGIC: [(usize, &[u8], &str); 7] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"WithoutFreeSpace", "ploop"),
    (0, b"WithouFreSpacExt", "ploop"),
];

/// Where an ISO 9660 file system names itself: one byte into sector 16 of 2048 bytes.
///
/// An ISO that is also bootable as a disk (a partition table in front) is `iso` as well: Glance
/// takes it as that, and as `raw` refuses it.
const ISO_MAGIC: (usize, &[u8]) = (16 * 2048 + 1, b"CD001");

/// The start of a VMDK that is only a text; the data are in other files.
const VMDK_DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";

/// The `disk_format` of a file on this host.
///
/// # Errors
/// `WrongFormat` for an image that nobody could use in a cloud, with what to do about it; `Io`.
pub fn disk_format_of(file: &File) -> Result<&'static str> {
    let content = sniff(|range| {
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(0)];
        let mut filled = 0;
        while filled < bytes.len() {
            let read = file.read_at(&mut bytes[filled..], range.start + filled as u64);
            match read.map_err(|error| Error::io("reading the file", error))? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    })?;
    match content.objection {
        Some(objection) => Err(Error::new(Kind::WrongFormat, objection)),
        None => Ok(content.format),
    }
}

/// Tells the format of what `read` gives (short at its end).
///
/// # Errors
/// Those of `read`.
pub fn sniff(read: impl Fn(ByteRange) -> Result<bytes::Bytes>) -> Result<Content> {
    Ok(Content::of_head(&read(ByteRange::new(0, HEAD_BYTES))?))
}

impl Content {
    /// Tells the format of an image by its first [`HEAD_BYTES`], or by all of a shorter one.
    pub fn of_head(head: &[u8]) -> Self {
        for (at, magic, format) in MAGIC {
            if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
                let objection = match format {
                    "qcow2" => qcow2_objection(head),
                    "vmdk" => vmdk::objection(head),
                    _ => None,
                };
                return Self { format, objection };
            }
        }
        if head.starts_with(VMDK_DESCRIPTOR) {
            let objection = "this VMDK is a description without data, which are in other files: \
                             convert it with qemu-img convert -O vmdk -o subformat=streamOptimized";
            return Self { format: "vmdk", objection: Some(objection) };
        }
        let (at, magic) = ISO_MAGIC;
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Self::plain("iso");
        }
        Self::plain("raw")
    }
}

/// A qcow2 that needs other files is refused by Glance and by Nova, since those would be files of
/// the cloud's hosts. Offsets: `docs/interop/qcow2.rst` of QEMU.
fn qcow2_objection(head: &[u8]) -> Option<&'static str> {
    let number = |at: usize| {
        let bytes: [u8; 8] = head.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_be_bytes(bytes))
    };
    const BACKING_FILE_OFFSET: usize = 8;
    const INCOMPATIBLE_FEATURES: usize = 72;
    const EXTERNAL_DATA_FILE: u64 = 1 << 2;
    if number(BACKING_FILE_OFFSET).is_some_and(|offset| offset != 0) {
        return Some("this qcow2 needs a backing file: flatten it with qemu-img convert -O qcow2");
    }
    // Version 2 has no feature bits: its header ends here.
    let version = u32::from_be_bytes(head.get(4..8)?.try_into().ok()?);
    if version >= 3 && number(INCOMPATIBLE_FEATURES).is_some_and(|bits| bits & EXTERNAL_DATA_FILE != 0) {
        return Some("this qcow2 keeps its data in another file: convert it with qemu-img convert -O qcow2");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn content(bytes: &[u8]) -> Content {
        sniff(|range| {
            let range = range.clamp_to(bytes.len() as u64);
            Ok(bytes::Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize]))
        })
        .unwrap()
    }

    /// Makes a file with qemu-img; `None` where it is not installed.
    fn qemu_img(arguments: &[&str], dir: &Path) -> Option<Vec<u8>> {
        let run = Command::new("qemu-img").current_dir(dir).args(arguments).output().ok()?;
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
        Some(std::fs::read(dir.join("x")).unwrap())
    }

    #[test]
    fn real_files_are_told_as_glance_tells_them() {
        let dir = tempfile::tempdir().unwrap();
        for (format, options, expected) in [
            ("qcow2", "compat=1.1", "qcow2"),
            ("qcow2", "compat=0.10", "qcow2"),
            ("vmdk", "subformat=monolithicSparse", "vmdk"),
            ("vmdk", "subformat=streamOptimized", "vmdk"),
            ("vhdx", "subformat=dynamic", "vhdx"),
            ("vpc", "subformat=dynamic", "vhd"),
            ("vpc", "subformat=fixed", "raw"),
            ("vdi", "static=off", "vdi"),
            ("parallels", "cluster_size=1M", "ploop"),
            ("raw", "preallocation=off", "raw"),
        ] {
            let arguments = ["create", "-q", "-f", format, "-o", options, "x", "2M"];
            let Some(bytes) = qemu_img(&arguments, dir.path()) else { return };
            assert_eq!(content(&bytes), Content::plain(expected), "{format} {options}");
        }
    }

    #[test]
    fn images_that_need_other_files_are_objected_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("base"), vec![0; 1 << 20]).unwrap();
        for arguments in [
            &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "x"][..],
            &["create", "-q", "-f", "qcow2", "-o", "data_file=data", "x", "1M"],
            &["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "x", "1M"],
        ] {
            let Some(bytes) = qemu_img(arguments, dir.path()) else { return };
            let objection = content(&bytes).objection.unwrap_or_default();
            assert!(objection.contains("qemu-img convert"), "{arguments:?}");
            std::fs::remove_file(dir.path().join("x")).unwrap();
        }
    }

    #[test]
    fn an_image_is_what_its_record_says_or_a_danger() {
        let danger = |format, recorded| Content::plain(format).danger(recorded, Some("bare"));
        for (format, recorded) in [
            ("qcow2", "qcow2"),
            ("raw", "raw"),
            ("raw", "vhd"),
            ("raw", "gpt"),
            ("raw", "ami"),
            ("qcow2", "a-format-of-this-site"),
        ] {
            assert_eq!(danger(format, Some(recorded)), None, "{format} recorded as {recorded}");
        }
        for (format, recorded) in [("qcow2", "raw"), ("raw", "qcow2"), ("vmdk", "vhd"), ("iso", "raw")] {
            let told = danger(format, Some(recorded)).unwrap();
            assert!(told.contains(recorded), "{told}");
        }
        assert_eq!(danger("qcow2", None), None);
        assert_eq!(Content::plain("qcow2").danger(Some("raw"), Some("ova")), None);
        let unsafe_one = Content { format: "qcow2", objection: Some("no") };
        assert_eq!(unsafe_one.danger(None, None).as_deref(), Some("no"));
        assert_eq!(unsafe_one.danger(Some("ami"), Some("bare")).as_deref(), Some("no"));
    }

    #[test]
    fn an_iso_is_one_with_or_without_a_partition_table() {
        let mut image = vec![0; 40_000];
        image[0x8001..0x8006].copy_from_slice(b"CD001");
        assert_eq!(content(&image).format, "iso");
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(content(&image).format, "iso");
        assert_eq!(content(&image[..0x8005]).format, "raw");
    }

    #[test]
    fn short_and_empty_files_are_raw() {
        for bytes in [&b""[..], b"Q", b"QFI", &[0; 511]] {
            assert_eq!(content(bytes), Content::plain("raw"));
        }
        // A qcow2 cut off inside its header is still told as one; Glance will say what is wrong.
        assert_eq!(content(b"QFI\xfb\0\0"), Content::plain("qcow2"));
    }
}
