//! Files that have no place in any folder.

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, memfd_create};

/// An empty file in memory, for reading and writing, that goes when it is closed; a program that is started does not inherit it. What is
/// called `name` in `/proc` is for people.
///
/// # Errors
/// No descriptor or no memory is left (memfd_create(2), Linux 3.17).
pub fn file(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}
