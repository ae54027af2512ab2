//! The body of an exposition, in memory that the kernel gives as far as it is used.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::ops::Deref;

use memmap2::{Advice, MmapMut, MmapOptions};

/// Where there is no memory for as many bytes, there is none.
const LEAST: u64 = 1 << 20;

/// Bytes that the kernel is asked for at a time: asked for each page, when it is touched, it takes half
/// as long again.
const STEP: usize = 64 << 10;

/// A body, and room for one byte more.
pub struct Body {
    memory: MmapMut,
    /// Bytes that the kernel has given so far.
    given: usize,
    length: usize,
}

impl Body {
    /// An empty body that can become `length` bytes long, if that is known, else `most`, or what
    /// there is memory for.
    pub fn new(length: Option<u64>, most: u64) -> io::Result<Body> {
        let map = |length: u64| {
            let bytes = usize::try_from(length).unwrap_or(usize::MAX);
            // What is not used is not there: nothing is to be reserved for it.
            MmapOptions::new()
                .len(bytes.saturating_add(1))
                .no_reserve_swap()
                .map_anon()
        };
        let mut room = length.unwrap_or(most);
        let mut memory = map(room);
        while length.is_none() && memory.is_err() && room > LEAST {
            // Half of what can be had: the rest of the run needs some, too.
            memory = map(room / 2).and_then(|found| {
                drop(found);
                map(room / 4)
            });
            room /= 2;
        }
        let memory = memory?;
        if length.is_none() {
            // Or the first byte takes two megabytes, where the system is set to that. If it knows of no
            // such pages, all the better.
            let _ = memory.advise(Advice::NoHugePage);
        }
        Ok(Body {
            memory,
            given: 0,
            length: 0,
        })
    }

    /// Reads the body to its end, or until there is no room for more of it; shows after each piece what
    /// there is so far.
    pub fn fill(&mut self, mut from: impl Read, mut show: impl FnMut(&[u8])) -> io::Result<()> {
        while !self.is_too_long() {
            if self.length == self.given {
                let step = STEP.min(self.memory.len() - self.given);
                // A kernel that does not know this (before 5.14) gives each page as it is touched.
                let _ = self
                    .memory
                    .advise_range(Advice::PopulateWrite, self.given, step);
                self.given += step;
            }
            match from.read(&mut self.memory[self.length..self.given]) {
                Ok(0) => break,
                Ok(amount) => {
                    self.length += amount;
                    show(self);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// How many bytes there is room for.
    pub fn room(&self) -> u64 {
        self.memory.len() as u64 - 1
    }

    /// Whether there was more to read than there is room for.
    pub fn is_too_long(&self) -> bool {
        self.length == self.memory.len()
    }

    /// Adds the newline without which a gateway takes no text.
    pub fn end_line(&mut self) {
        if !self.ends_with(b"\n") {
            self.memory[self.length] = b'\n';
            self.length += 1;
        }
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}

#[cfg(test)]
impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Body {
        let mut body = Body::new(Some(bytes.len() as u64), 0).unwrap();
        body.fill(bytes, |_| ()).unwrap();
        body
    }
}
