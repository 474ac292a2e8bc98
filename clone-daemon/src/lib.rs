//! The place of `cloned`, which will serve a clone as a block device in userspace while it
//! hydrates, on the same metadata as the kernel's target.
//!
//! Nothing of it exists yet: the crate holds the name in the workspace's layout.
