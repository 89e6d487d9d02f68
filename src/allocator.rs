//! What is asked of the C library's allocator, so that the memory of the process stays near what it counts.

/// Areas that threads allocate from (M_ARENA_MAX of mallopt(3)), instead of eight for each core. Blocks are
/// allocated on some threads and freed on others, so each area keeps what another could use: reading an image of
/// 1 GiB at random and then in sequence took 327 to 338 MiB with the default, and 305 to 318 MiB with two, at the
/// same speed; one gains no more.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Bounds what the allocator keeps in reserve. For the start of a daemon, before it has threads.
pub fn bound_reserves() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer (mallopt(3)). What it refuses stays as it was.
    let _set = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

/// Gives the kernel what the allocator holds in reserve.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and may be called by any thread at any time (malloc_trim(3)).
    let _some = unsafe { libc::malloc_trim(0) };
}

/// Bytes that the program asked for and has not given back, and small blocks that its threads keep for their next use (up to
/// 230 KiB each); gaps and other reserves of the allocator are not counted. None where the C library does not tell. It is told
/// in 32 bits (mallinfo(3)): beyond 4 GiB the rest shows.
pub fn allocated() -> Option<u64> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes nothing and returns numbers.
        let told = unsafe { libc::mallinfo() };
        Some(u64::from(told.uordblks.cast_unsigned()) + u64::from(told.hblkhd.cast_unsigned()))
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted_until_it_is_given_back() {
        const SIZE: u64 = 512 << 20;
        let before = allocated().unwrap_or_default();
        let large = std::hint::black_box(Vec::<u8>::with_capacity(SIZE as usize));
        // Other tests allocate at the same time, by far not as much.
        assert!(allocated().unwrap_or_default() > before + SIZE / 2);
        drop(large);
        assert!(allocated().unwrap_or_default() < before + SIZE / 2);
    }
}
