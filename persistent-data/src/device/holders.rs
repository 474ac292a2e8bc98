//! Finds the users of a block device, for the message that it is in use.
//!
//! All of it is best effort: unreadable files are ignored.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the users of the block device with `number` (`major:minor`), or of a partition of it, in
/// words for a message. Reads `sys` and `proc` below `root`.
///
/// Empty if none is found: another program may have opened the device exclusively.
pub(super) fn holders(root: &Path, number: &str) -> Vec<String> {
    let device = root.join("sys/dev/block").join(number);
    let mut numbers = vec![number.to_owned()];
    let mut found = stacked_on(&device);
    // A mounted partition makes the whole disk busy.
    for partition in entries(&device).into_iter().filter(|entry| entry.join("partition").exists()) {
        found.extend(stacked_on(&partition));
        numbers.extend(line_of(&partition.join("dev")));
    }
    let mounts = fs::read(root.join("proc/self/mountinfo")).unwrap_or_default();
    for mount_point in mount_points(&mounts, &numbers) {
        let holder = format!("the file system at `{mount_point}`");
        if !found.contains(&holder) {
            found.push(holder);
        }
    }
    found
}

/// Returns the block devices that are stacked on the one that `device` describes.
fn stacked_on(device: &Path) -> Vec<String> {
    let describe = |holder: PathBuf| match line_of(&holder.join("dm/name")) {
        Some(name) => Some(format!("dm device `{name}`")),
        None => Some(format!("block device `{}`", holder.file_name()?.display())),
    };
    entries(&device.join("holders")).into_iter().filter_map(describe).collect()
}

/// Returns the entries of `directory`, sorted.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    entries.sort();
    entries
}

/// Returns the content of the one-line file at `path`.
fn line_of(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// Returns the mount points of devices with one of `numbers` (`mountinfo`: proc_pid_mountinfo(5)).
fn mount_points(mountinfo: &[u8], numbers: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for line in mountinfo.split(|&byte| byte == b'\n') {
        // 36 35 98:0 /root /mount/point options ...
        let mut fields = line.split(|&byte| byte == b' ').skip(2);
        let (Some(number), Some(mount_point)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        if numbers.iter().any(|wanted| wanted.as_bytes() == number) {
            found.push(String::from_utf8_lossy(&unescape(mount_point)).into_owned());
        }
    }
    found
}

/// Replaces the kernel's escapes, such as `\040`, in `field` by the bytes that they stand for.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    loop {
        match *rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &rest[4..];
            }
            [byte, ..] => {
                bytes.push(byte);
                rest = &rest[1..];
            }
            [] => return bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{holders, unescape};

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn dm_devices_other_devices_and_mounts_are_named() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "sys/dev/block/254:3/holders/dm-7/dm/name", "clone0\n");
        put(root.path(), "sys/dev/block/254:3/holders/md1/size", "8\n");
        put(
            root.path(),
            "proc/self/mountinfo",
            "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
             23 22 254:3 / /mnt/a\\040b\\134c rw,noatime shared:1 - ext4 /dev/vdb rw\n\
             24 22 254:3 /sub /mnt/sub rw - ext4 /dev/vdb rw\n\
             25 22 254:3 / /mnt/sub rw - ext4 /dev/vdb rw\n\
             26 22 254:33 / /other rw - ext4 /dev/vdc rw\n",
        );
        assert_eq!(
            holders(root.path(), "254:3"),
            [
                "dm device `clone0`",
                "block device `md1`",
                "the file system at `/mnt/a b\\c`",
                "the file system at `/mnt/sub`",
            ]
        );
    }

    #[test]
    fn a_disk_is_held_by_what_uses_its_partitions() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "sys/dev/block/8:0/sda1/partition", "1\n");
        put(root.path(), "sys/dev/block/8:0/sda1/dev", "8:1\n");
        put(root.path(), "sys/dev/block/8:0/sda1/holders/dm-0/dm/name", "root\n");
        put(root.path(), "sys/dev/block/8:0/queue/rotational", "0\n");
        put(root.path(), "proc/self/mountinfo", "22 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n");
        assert_eq!(holders(root.path(), "8:0"), ["dm device `root`", "the file system at `/boot`"]);
    }

    #[test]
    fn nobody_is_found_where_there_is_nothing_to_read() {
        let root = tempfile::tempdir().unwrap();
        assert!(holders(root.path(), "8:0").is_empty());
        put(root.path(), "proc/self/mountinfo", "\n1\n1 2 8:0\n1 2 8:0 /\n\0\n");
        assert!(holders(root.path(), "8:0").is_empty());
    }

    #[test]
    fn only_whole_octal_escapes_are_replaced() {
        assert_eq!(unescape(br"\040\011\012\134\377"), b" \t\n\\\xff");
        assert_eq!(unescape(br"a\04"), br"a\04");
        assert_eq!(unescape(br"\\040\400\8"), br"\ \400\8");
        assert_eq!(unescape(b""), b"");
    }
}
