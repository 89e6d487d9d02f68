//! The one byte budget of the process: who may hold how much memory for blocks in flight.
