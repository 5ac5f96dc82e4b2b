//! An array map, mapped into memory: reading 20,000 counters is a walk over memory, not 20,000 system
//! calls, and switching a Service to another set of backends is one store.
//!
//! The kernel makes every page of such a mapping resident at once, used or not. So an array is mapped window
//! by window, as it is reached: entries that nobody asks for are in no process's memory.

use std::{
    io,
    marker::PhantomData,
    mem::size_of,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::sys;

/// Windows are not smaller, nor are there more than so many of one array: mappings are few in a process.
const WINDOW: usize = 256 << 10;
const MAX_WINDOWS: usize = 64;

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
    /// Of a range of addresses that is ours; mapped where `windows` says so.
    start: NonNull<AtomicU64>,
    bytes: usize,
    /// Which windows are mapped. Each has `1 << shift` bytes, the last one what is left.
    windows: Box<[AtomicBool]>,
    shift: u32,
    /// Held while a window is mapped: it may be reached by a second thread meanwhile.
    mapping: Mutex<()>,
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

    /// Makes the array map behind `fd` ready to be mapped, and maps its first window.
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
        let window = bytes.div_ceil(MAX_WINDOWS).max(WINDOW).max(page).next_power_of_two();
        let (none, private) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, none, private) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        let array = Self {
            start,
            bytes,
            windows: (0..bytes.div_ceil(window)).map(|_| AtomicBool::new(false)).collect(),
            shift: window.trailing_zeros(),
            mapping: Mutex::new(()),
            len: info.max_entries,
            access,
            fd,
            values: PhantomData,
        };
        // What stands in the way of one window stands in the way of all.
        array.map(0)?;
        Ok(array)
    }

    /// Maps a window, unless it is.
    fn map(&self, window: usize) -> io::Result<()> {
        let _guard = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        if self.windows[window].load(Ordering::Acquire) {
            return Ok(());
        }
        let protection = match self.access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        let from = window << self.shift;
        let bytes = (self.bytes - from).min(1 << self.shift);
        // SAFETY: within the range that is ours, in a part of it where nothing is mapped that could be borrowed.
        unsafe {
            let at = self.start.as_ptr().byte_add(from).cast();
            mmap(at, bytes, protection, MapFlags::SHARED | MapFlags::FIXED, &self.fd, from as u64)?;
        }
        self.windows[window].store(true, Ordering::Release);
        Ok(())
    }

    /// Gives back what is mapped; what is reached later is mapped again.
    ///
    /// # Errors
    /// What mmap(2) says. All that can be reached still can.
    pub fn release(&mut self) -> io::Result<()> {
        for (window, mapped) in self.windows.iter_mut().enumerate() {
            if !*mapped.get_mut() {
                continue;
            }
            let from = window << self.shift;
            let bytes = (self.bytes - from).min(1 << self.shift);
            let (none, private) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
            // SAFETY: within the range that is ours; `self` is borrowed alone, so nothing borrows from it.
            unsafe {
                let at = self.start.as_ptr().byte_add(from).cast();
                mmap_anonymous(at, bytes, none, private | MapFlags::FIXED)?;
            }
            *mapped.get_mut() = false;
        }
        Ok(())
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
    ///
    /// # Panics
    /// If the kernel has no memory left to map it: to go on as if nothing stood there would be worse.
    pub fn word(&self, index: u32, word: usize) -> Option<&AtomicU64> {
        if index >= self.len || word >= Self::WORDS {
            return None;
        }
        let at = index as usize * Self::WORDS + word;
        let window = (at * size_of::<AtomicU64>()) >> self.shift;
        if !self.windows[window].load(Ordering::Acquire)
            && let Err(error) = self.map(window)
        {
            panic!("cannot map a part of a BPF map that could be mapped when it was opened: {error}");
        }
        // SAFETY: within a window that is mapped and stays so while `self` is borrowed, and aligned to 8 bytes.
        Some(unsafe { self.start.add(at).as_ref() })
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
        // SAFETY: the range was taken by `new` with this size and nothing borrows from it any more.
        // It cannot fail for a range that exists.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
