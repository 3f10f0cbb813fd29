//! The C header: written from the tables of the ABI, compared with the committed file.
//!
//! Owns: the names of types in C. Run with `UPDATE=1` to write the file.

use super::{Item, blob, ffi};
use std::fmt::Write as _;

fn c_type(rust: &str, name: &str) -> String {
    let squeezed: String = rust.chars().filter(|c| !c.is_whitespace()).collect();
    let base = |name: &str| match name {
        "" => "void".to_owned(),
        "u8" | "u16" | "u32" | "u64" => format!("uint{}_t", &name[1..]),
        "i32" => "int".to_owned(),
        "usize" => "size_t".to_owned(),
        "c_char" => "char".to_owned(),
        "us_ring" | "us_ring_policy" | "us_ring_record" | "us_ring_completion" | "us_blob_hasher" => {
            format!("struct {name}")
        }
        other => panic!("`{other}` has no name in C"),
    };
    if let Some((element, count)) =
        squeezed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).and_then(|rest| rest.split_once(';'))
    {
        return format!("{} {name}[{count}]", base(element));
    }
    let mut rest = squeezed.as_str();
    let mut stars = String::new();
    let mut constant = "";
    loop {
        if let Some(inner) = rest.strip_prefix("*mut") {
            rest = inner;
        } else if let Some(inner) = rest.strip_prefix("*const") {
            constant = "const ";
            rest = inner;
        } else {
            break;
        }
        stars.push('*');
    }
    let gap = if name.is_empty() && stars.is_empty() { "" } else { " " };
    format!("{constant}{}{gap}{stars}{name}", base(rest))
}

fn comment(out: &mut String, indent: &str, lines: &[&str]) {
    let text: Vec<_> = lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    let _ = writeln!(out, "{indent}/* {} */", text.join(&format!("\n{indent} * ")));
}

fn write(out: &mut String, item: &Item) {
    out.push('\n');
    match item {
        Item::Function(doc, name, parameters, result) => {
            comment(out, "", doc);
            let parameters: Vec<_> = parameters.iter().map(|(name, rust)| c_type(rust, name)).collect();
            let parameters = if parameters.is_empty() { "void".to_owned() } else { parameters.join(", ") };
            let _ = writeln!(out, "{};", c_type(result, &format!("{name}({parameters})")));
        }
        Item::Structure(doc, name, fields) => {
            comment(out, "", doc);
            let _ = writeln!(out, "struct {name} {{");
            for (doc, name, rust) in *fields {
                comment(out, "\t", doc);
                let _ = writeln!(out, "\t{};", c_type(rust, name));
            }
            out.push_str("};\n");
        }
        Item::Enumeration(doc, name, values) => {
            comment(out, "", doc);
            let _ = writeln!(out, "enum {name} {{");
            for (doc, name, value) in *values {
                comment(out, "\t", &[doc]);
                let _ = writeln!(out, "\t{name} = {value},");
            }
            out.push_str("};\n");
        }
        Item::Constant(doc, name, value) => {
            comment(out, "", doc);
            let _ = writeln!(out, "#define {name} {value}u");
        }
        Item::Opaque(doc, name) => {
            comment(out, "", doc);
            let _ = writeln!(out, "struct {name};");
        }
    }
}

fn header() -> String {
    let mut out = String::from(
        "/* understudy_ring.h: the shared-memory ring between a mail store and its Understudy agent, for C.\n *\n \
         * Link with libunderstudy_ring.a. No function ends the process or lets an exception through; every one takes\n \
         * null pointers. Generated from ring/src/abi by `UPDATE=1 cargo test -p understudy-ring header`.\n *\n \
         * SPDX-License-Identifier: Apache-2.0 */\n\
         #ifndef UNDERSTUDY_RING_H\n#define UNDERSTUDY_RING_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n\
         #ifdef __cplusplus\nextern \"C\" {\n#endif\n",
    );
    let constants = [
        Item::Constant(
            &["Bytes of the longest account name."],
            "US_RING_ACCOUNT_BYTES_MAX",
            ffi::US_RING_ACCOUNT_BYTES_MAX,
        ),
        Item::Constant(
            &["Bytes of the largest record: a header of 64, account and payload each padded to 8."],
            "US_RING_RECORD_BYTES_MAX",
            ffi::US_RING_RECORD_BYTES_MAX,
        ),
        Item::Opaque(&["A ring that this program has open."], "us_ring"),
        Item::Opaque(&["An incremental BLAKE3 hasher."], "us_blob_hasher"),
    ];
    let types = [
        ffi::ERRORS,
        ffi::STATUSES,
        ffi::LEVELS,
        ffi::TIMEOUTS,
        ffi::FULLS,
        ffi::ROLES,
        ffi::POLICY,
        ffi::COMPLETION,
        ffi::RECORD,
    ];
    for item in constants.iter().chain(&types).chain(ffi::FUNCTIONS).chain(blob::FUNCTIONS) {
        write(&mut out, item);
    }
    out.push_str("\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
    out
}

#[test]
fn header_is_what_the_code_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/include/understudy_ring.h");
    let generated = header();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == generated,
        "{path} differs from the code; run `UPDATE=1 cargo test -p understudy-ring header`"
    );
}
