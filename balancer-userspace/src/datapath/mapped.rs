//! An array map, mapped into memory: reading 20,000 counters is a walk over memory, not 20,000 system
//! calls, and switching a Service to another set of backends is one store.

use std::{
    io,
    marker::PhantomData,
    mem::size_of,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::sys;

/// What may be done through a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads; a stray write would fault instead of corrupting what the kernel uses.
    Read,
    /// Reads and writes.
    Write,
}

/// A `BPF_MAP_TYPE_ARRAY` with `BPF_F_MMAPABLE`, whose values are `T`.
///
/// The kernel and other processes read and write the memory at any time, so values are copied word by
/// word, never borrowed. A word is never torn; two words of one value may be of different instants.
#[derive(Debug)]
pub struct MappedArray<T> {
    start: NonNull<AtomicU64>,
    bytes: usize,
    len: u32,
    access: Access,
    fd: OwnedFd,
    values: PhantomData<T>,
}

// SAFETY: all access to the mapping is through atomics, which threads may share.
unsafe impl<T> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for MappedArray<T> {}

impl<T: bytemuck::Pod> MappedArray<T> {
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8), "the kernel pads array values to 8 bytes");
        size_of::<T>() / 8
    };

    /// Maps the array map behind `fd`.
    ///
    /// # Errors
    /// `InvalidData` if its values are not of the size of `T`; else what mmap(2) says.
    pub fn new(fd: OwnedFd, access: Access) -> io::Result<Self> {
        let info = sys::map_info(fd.as_fd())?;
        if info.value_size as usize != size_of::<T>() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("values of {} bytes where {} are expected", info.value_size, size_of::<T>()),
            ));
        }
        let page = rustix::param::page_size();
        let bytes = (info.max_entries as usize * size_of::<T>()).next_multiple_of(page);
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &fd, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, bytes, len: info.max_entries, access, fd, values: PhantomData })
    }

    /// Capacity of the map.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether the map has no entries; the kernel allows no such array.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The descriptor of the map.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Word `word` of value `index`; `None` outside of the map or the value.
    pub fn word(&self, index: u32, word: usize) -> Option<&AtomicU64> {
        if index >= self.len || word >= Self::WORDS {
            return None;
        }
        // SAFETY: within the mapping, which lives as long as `self`, and aligned to 8 bytes.
        Some(unsafe { self.start.add(index as usize * Self::WORDS + word).as_ref() })
    }

    /// A copy of value `index`; `None` outside of the map.
    pub fn get(&self, index: u32) -> Option<T> {
        let mut value = T::zeroed();
        let (words, _) = bytemuck::bytes_of_mut(&mut value).as_chunks_mut::<8>();
        for (word, bytes) in words.iter_mut().enumerate() {
            *bytes = self.word(index, word)?.load(Ordering::Acquire).to_ne_bytes();
        }
        Some(value)
    }

    /// Stores value `index`, its first word last. Does nothing outside of the map.
    ///
    /// # Panics
    /// If the mapping is for reading: a mistake in this program, which would otherwise be a fault.
    pub fn set(&self, index: u32, value: &T) {
        assert_eq!(self.access, Access::Write, "the map was opened for reading");
        let (words, _) = bytemuck::bytes_of(value).as_chunks::<8>();
        for (word, bytes) in words.iter().enumerate().rev() {
            if let Some(place) = self.word(index, word) {
                place.store(u64::from_ne_bytes(*bytes), Ordering::Release);
            }
        }
    }

    /// All values with their indices, as of the instants at which they are reached.
    pub fn iter(&self) -> impl Iterator<Item = (u32, T)> + '_ {
        (0..self.len).filter_map(|index| Some((index, self.get(index)?)))
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size and nothing borrows it any more.
        // It cannot fail for a mapping that exists.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
