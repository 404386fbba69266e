//! What fuzz targets share: readings of messages that are slow, simple, and nobody else's.

pub mod lane;
pub mod reference;
