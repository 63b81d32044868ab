//! Compiles `proto/` with protox, so that building needs cargo alone.
//!
//! Messages and clients come from the usual generator. Servers are generated one by one, because
//! the answers that carry stored events are sent as the bytes they are stored as: those methods
//! get an output type and a codec of our own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;
use tonic_prost_build::manual;

/// The methods whose answers are made of stored bytes.
const STORED_ANSWERS: [&str; 3] = ["Subscribe", "ListEvents", "GetEvent"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = fs::read_dir("proto/provident/v1")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "proto")
    });
    files.sort();

    let descriptors = protox::compile(&files, ["proto"])?;
    fs::write(out.join("descriptor.bin"), descriptors.encode_to_vec())?;
    write_file_list(&out, &files)?;

    for file in &descriptors.file {
        for service in &file.service {
            let mut builder = manual::Service::builder()
                .name(service.name())
                .package(file.package())
                .comment(format!(
                    "Server of `{}.{}`.",
                    file.package(),
                    service.name()
                ));
            for method in &service.method {
                let message = |name: &str| {
                    let name = name.rsplit('.').next().expect("a name has a last part");
                    format!("crate::wire::v1::{name}")
                };
                let stored = STORED_ANSWERS.contains(&method.name());
                let mut generated = manual::Method::builder()
                    .name(snake_case(method.name()))
                    .route_name(method.name())
                    .input_type(message(method.input_type()))
                    .output_type(if stored {
                        "crate::grpc::codec::Answer".to_owned()
                    } else {
                        message(method.output_type())
                    })
                    .codec_path(if stored {
                        "crate::grpc::codec::AnswerCodec"
                    } else {
                        "tonic_prost::ProstCodec"
                    });
                if method.server_streaming() {
                    generated = generated.server_streaming();
                }
                builder = builder.method(generated.build());
            }
            manual::Builder::new()
                .build_client(false)
                .compile(&[builder.build()]);
        }
    }

    tonic_prost_build::configure()
        .build_server(false)
        .btree_map(".")
        // An empty input is two bytes on the wire: it must not cost a kilobyte in memory.
        .boxed(".provident.v1.IngestInput.input.event")
        .boxed(".provident.v1.IngestInput.input.group_push_failed")
        .boxed(".provident.v1.ClassifyRequest.input.event")
        .boxed(".provident.v1.ClassifyRequest.input.group_push_failed")
        .bytes(".provident.v1.IngestInput.json")
        .bytes(".provident.v1.ClassifyRequest.json")
        .compile_fds(descriptors)?;
    Ok(())
}

/// What `provident proto` writes: every file under `proto/` that belongs to the contract.
fn write_file_list(out: &Path, files: &[PathBuf]) -> Result<(), Box<dyn std::error::Error>> {
    let root = env::current_dir()?;
    let extra = PathBuf::from("proto/provident/v1/retry_service_config.json");
    let mut list = String::from("&[\n");
    for file in files.iter().chain([&extra]) {
        let name = file
            .strip_prefix("proto")?
            .to_str()
            .ok_or("names are UTF-8")?;
        let path = root.join(file);
        let path = path
            .to_str()
            .ok_or("the path to the sources is not UTF-8")?;
        writeln!(list, "({name:?}, include_str!({path:?})),")?;
    }
    list.push(']');
    fs::write(out.join("proto_files.rs"), list)?;
    Ok(())
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}
