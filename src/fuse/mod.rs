//! The kernel's side: one span, one call and one reply per operation, and the errno table.

mod adapter;
mod convert;
mod device;
mod errno;
mod invalidate;
mod passthrough;
mod process;
pub mod session;
pub mod unmount;
