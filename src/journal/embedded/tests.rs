//! What only the embedded journal can do: be opened again, be interrupted, be damaged.
//!
//! What every journal has to do is in `journal/contract.rs`.
