//! The kernel's side: one call and one reply per operation, and the errno table.

pub mod session;
pub mod unmount;
