//! File semantics on plain types: inodes, names, attributes, handles, refusals.
