//! Buffers of Python's objects that nobody needs any more, until somebody with the interpreter's lock gives them back.
//!
//! A stack of one pointer: threads of a pool put onto it, and a process that is forked off at any moment finds it
//! whole, which it would not a lock. Must never take the interpreter's lock itself.

#![allow(unsafe_code, reason = "a stack without a lock is made of pointers")]

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::Python;
use pyo3::buffer::PyUntypedBuffer;

struct Node {
    buffer: PyUntypedBuffer,
    next: *mut Node,
}

static TOP: AtomicPtr<Node> = AtomicPtr::new(null_mut());

/// Puts a buffer aside.
pub(crate) fn push(buffer: Option<PyUntypedBuffer>) {
    let Some(buffer) = buffer else { return };
    let node = Box::into_raw(Box::new(Node { buffer, next: TOP.load(Ordering::Relaxed) }));
    loop {
        // SAFETY: nobody else has the node before it is on the stack.
        let next = unsafe { (*node).next };
        match TOP.compare_exchange_weak(next, node, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => {
                // SAFETY: as above.
                unsafe { (*node).next = now }
            }
        }
    }
}

/// Gives back what was put aside.
pub(crate) fn collect(py: Python<'_>) {
    // All at once: nobody takes a single node, so that none comes back while somebody looks at it.
    let mut top = TOP.swap(null_mut(), Ordering::Acquire);
    while !top.is_null() {
        // SAFETY: the node was a box when it was pushed, and the swap gave the stack to this thread alone.
        let node = unsafe { Box::from_raw(top) };
        node.buffer.release(py);
        top = node.next;
    }
}
