//! What `fuzz/` gives hostile bytes to in this layer; not part of the API.

use super::profile::Profile;
use crate::units::{BLOCK_SIZE, BlockRange};

/// A boot profile from a file, and from a property of an image.
pub fn profile(bytes: &[u8]) {
    if let Ok(profile) = Profile::of_any(bytes) {
        plausible(&profile);
        assert_eq!(Profile::of_any(&profile.encode()).ok().as_ref(), Some(&profile));
    }
    let (digest, size) = ("sha512:ab", 100 * BLOCK_SIZE - 5);
    let text = String::from_utf8_lossy(bytes);
    // No fuzzer finds a checksum: the runs also behind the right one.
    for text in [text.to_string(), Profile::property_of(digest, size, text.as_bytes())] {
        let Ok(profile) = Profile::from_property(&text, digest, size) else { continue };
        plausible(&profile);
        let back = profile.publishable().and_then(|text| Profile::from_property(&text, digest, size));
        assert!(back.is_ok_and(|back| back == profile));
    }
}

fn plausible(profile: &Profile) {
    let whole = BlockRange::of_image(profile.size());
    assert!(profile.blocks().count() <= 16_384);
    assert!(profile.blocks().all(|block| block < whole.end));
}
