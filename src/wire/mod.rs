//! The contract's generated types, and how what we know becomes their bytes.
//!
//! The stored form of an event is its wire form: [`record`] lays it out, so that streams send
//! what is stored. [`convert`] is the one place where domain values and messages meet, and it
//! names each field it can't take. Nothing here does I/O.

#[cfg(feature = "server")]
use std::sync::LazyLock;

#[cfg(feature = "server")]
use prost_reflect::DescriptorPool;

#[cfg(feature = "server")]
pub mod convert;
#[cfg(feature = "server")]
pub mod json;
#[cfg(feature = "server")]
pub mod page_token;
#[cfg(feature = "server")]
pub mod record;
#[cfg(feature = "server")]
pub mod subscription;

/// Messages and clients of package `provident.v1`, generated from `proto/`.
pub mod v1 {
    #![expect(
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        clippy::large_enum_variant,
        reason = "generated"
    )]
    tonic::include_proto!("provident.v1");
}

/// The compiled contract, as reflection serves it (a serialized `FileDescriptorSet`).
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// The same, to be asked what there is in it.
#[cfg(feature = "server")]
pub static CONTRACT: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTOR).expect("the contract was compiled by our build")
});

/// The contract's files: path below `proto/`, and content.
pub const PROTO_FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/proto_files.rs"));
