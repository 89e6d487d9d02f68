//! What is done for virtual machines whose disks are on images of the mount.

/// What is done for virtual machines whose disks are on images of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestsConfig {
    /// Which images have to outlive their deletion.
    pub hold: Hold,
    /// What `.nova-base` shows.
    pub nova_base: NovaBase,
}

/// Which images are brought to the cache completely and kept there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    /// None.
    #[default]
    Off,
    /// Those that are open, for as long as they are.
    Open,
}

/// What `.nova-base` shows: the images that Nova uses as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NovaBase {
    /// There is no such folder.
    Off,
    /// Those that are raw to Nova, which converts all others (`force_raw_images = True`, its default).
    #[default]
    Raw,
    /// And qcow2 (`force_raw_images = False`).
    Qcow2,
}
