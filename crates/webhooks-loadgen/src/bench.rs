//! The benchmark table (being written).
