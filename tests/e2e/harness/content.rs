//! Bytes to compare, and small conversions.

/// `length` bytes without repetition, different for each `seed` (xorshift64*).
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A text as JSON.
#[track_caller]
pub fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON ({error}): {text:?}"))
}

/// Seconds since 1970 of a timestamp such as `2026-11-20T10:00:00Z`.
pub fn epoch(timestamp: &serde_json::Value) -> i64 {
    timestamp.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
}
