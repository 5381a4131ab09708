//! The crash test (being written).
