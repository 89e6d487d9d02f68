//! What programs see when requests of glancefs meet each fault that a network, a server or a proxy can have.

mod act;
mod expected;
mod matrix;
mod operation;
mod proxy;
mod reliability;
mod row;
mod time;
