//! The `disk_format` of an image, told from its content.
//!
//! Glance (since 2025.1) inspects `bare` uploads and answers 415 where content and `disk_format`
//! differ, after the whole body was sent. So this follows what Glance itself recognises (checked
//! against Glance 33.0.0 with files made by qemu-img and xorriso), and what Glance takes as `raw`
//! is `raw` here.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Kind, Result};
use crate::units::ByteRange;

/// What an image's content says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    /// The value for `disk_format`.
    pub(super) format: &'static str,
    /// Why nobody could use such an image in a cloud, and what to do about it.
    pub(super) objection: Option<&'static str>,
}

impl Content {
    const fn of(format: &'static str) -> Self {
        Self { format, objection: None }
    }

    /// A format of `qemu-img` with tables of its own; an ISO is written in one go.
    pub(super) fn is_formatted(&self) -> bool {
        matches!(self.format, "qcow2" | "vmdk" | "vhdx" | "vhd" | "vdi")
    }

    /// The content has no mark of a format: it may be anything.
    pub(super) fn is_unmarked(&self) -> bool {
        self.format == "raw"
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
const ISO_MAGIC: (u64, &[u8]) = (16 * 2048 + 1, b"CD001");

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
pub(super) fn sniff(read: impl Fn(ByteRange) -> Result<bytes::Bytes>) -> Result<Content> {
    let head = read(ByteRange::new(0, 512))?;
    for (at, magic, format) in MAGIC {
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            let objection = if format == "qcow2" { qcow2_objection(&head) } else { None };
            return Ok(Content { format, objection });
        }
    }
    if head.starts_with(VMDK_DESCRIPTOR) {
        let objection = "this VMDK is a description without data, which are in other files: \
                         convert it with qemu-img convert -O vmdk -o subformat=streamOptimized";
        return Ok(Content { format: "vmdk", objection: Some(objection) });
    }
    let (at, magic) = ISO_MAGIC;
    if read(ByteRange::at(at, magic.len() as u64))? == magic {
        return Ok(Content::of("iso"));
    }
    Ok(Content::of("raw"))
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
            assert_eq!(content(&bytes), Content::of(expected), "{format} {options}");
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
            assert_eq!(content(bytes), Content::of("raw"));
        }
        // A qcow2 cut off inside its header is still told as one; Glance will say what is wrong.
        assert_eq!(content(b"QFI\xfb\0\0"), Content::of("qcow2"));
    }
}
