//! What an image goes through as a file: reserved, filled, renamed, replaced, protected, deactivated, removed.
