//! What a connection keeps of its HTTP on the way.

use std::io;

use ureq::unversioned::transport;

use crate::socket::Stream;

/// Bytes of input that are kept, at most.
const INPUT: usize = 32 * 1024;

/// The buffers of a connection. ureq's own zero 256 KiB for each, which costs more than all the rest
/// of a small run; of these only the output is, which is short.
#[derive(Debug)]
pub struct Buffers {
    /// What has come, of which so much is consumed.
    input: Vec<u8>,
    consumed: usize,
    /// Whether the last look at the input has consumed some of it.
    progress: bool,
    output: Vec<u8>,
    /// Whether the output is a piece of the body.
    pub is_body: bool,
    /// Whether nothing more is there to read, as far as the last read told.
    pub is_drained: bool,
}

impl Buffers {
    /// Buffers that take so many bytes of a request's head at a time.
    pub fn new(output_size: usize) -> Buffers {
        Buffers {
            input: Vec::new(),
            consumed: 0,
            progress: false,
            output: vec![0; output_size],
            is_body: false,
            is_drained: false,
        }
    }

    /// Reads more input, as much as there is room for; returns how many bytes that were.
    pub fn fill(&mut self, stream: &mut dyn Stream) -> io::Result<usize> {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        match INPUT - self.input.len() {
            0 => Ok(0),
            room => {
                self.input.try_reserve_exact(room)?;
                let amount = stream.append(&mut self.input)?;
                self.is_drained = amount < room;
                Ok(amount)
            }
        }
    }
}

impl transport::Buffers for Buffers {
    fn output(&mut self) -> &mut [u8] {
        self.is_body = false;
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.consumed..]
    }

    /// None: it is for connections that do not fill the input by themselves.
    fn input_append_buf(&mut self) -> &mut [u8] {
        &mut []
    }

    fn input_appended(&mut self, _: usize) {}

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.consumed += amount;
    }

    /// For a piece of the body, and so the output alone: the other is for those that are sent in
    /// chunks.
    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.is_body = true;
        (&mut [], &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.progress && self.consumed < self.input.len()
    }
}
