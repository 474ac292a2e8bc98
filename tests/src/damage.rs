//! Deliberately damaged images: an editor for them, and tables of cases.

mod case;
mod cases;
mod image_editor;

pub use self::case::Case;
pub use self::cases::{TABLES, Table};
pub use self::image_editor::{
    IMAGES, ImageEditor, Layout, Role, THREE_BITMAPS, child, key, set_child, set_key,
};
