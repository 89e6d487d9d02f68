//! Bytes to compare, and small conversions.

/// Numbers without a pattern, the same for the same seed (xorshift64*).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One that is less than `bound`, by the upper bits, which are the better ones.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.word() >> 11).unwrap() % bound
    }
}

/// `length` bytes without repetition, different for each `seed`.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&numbers.word().to_le_bytes());
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
