//! The C ABI and the text of its header.
//!
//! Owns: the macros with which a C function, constant or structure is written once and appears in both the
//! library and `include/understudy_ring.h`. A test compares the committed header with what they give.
//! What can hurt: a Rust type without a C name; the generator refuses it.

/// One thing of the header.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) enum Item {
    /// A function: documentation, name, parameters as (name, Rust type), Rust result.
    Function(&'static [&'static str], &'static str, &'static [(&'static str, &'static str)], &'static str),
    /// A structure: documentation, name, fields as (documentation, name, Rust type).
    Structure(&'static [&'static str], &'static str, &'static [Field]),
    /// An enumeration: documentation, name, values as (documentation, name, value).
    Enumeration(&'static [&'static str], &'static str, &'static [(&'static str, &'static str, i64)]),
    /// A constant: documentation, name, value.
    Constant(&'static [&'static str], &'static str, u64),
    /// A structure whose content C does not see.
    Opaque(&'static [&'static str], &'static str),
}

/// Documentation, name, Rust type.
#[cfg(test)]
pub(crate) type Field = (&'static [&'static str], &'static str, &'static str);

/// Defines C functions and the table of them. A panic in a body becomes the value after `=> on_panic`.
macro_rules! c_functions {
    ($table:ident; $($(#[doc = $doc:literal])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? { $($body:tt)* } on_panic $panic:expr;)*) => {
        $(
            $(#[doc = $doc])*
            ///
            /// # Safety
            /// A pointer is null or points to as many bytes as its length says; a handle is null or came from its
            /// `open` or `new`, was not closed, and is used by one thread at a time.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? {
                match std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || { $($body)* })) {
                    Ok(value) => value,
                    Err(_) => $panic,
                }
            }
        )*
        /// Every function above, for the header.
        #[cfg(test)]
        pub(crate) const $table: &[$crate::abi::Item] = &[
            $($crate::abi::Item::Function(&[$($doc),*], stringify!($name), &[$((stringify!($arg), stringify!($ty))),*], concat!("", $(stringify!($ret))?))),*
        ];
    };
}

/// Defines a structure that C shares, and its entry of the table.
macro_rules! c_structure {
    ($table:ident; $(#[doc = $doc:literal])* struct $name:ident { $($(#[doc = $field_doc:literal])* $field:ident: $ty:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        pub struct $name { $($(#[doc = $field_doc])* pub $field: $ty,)* }
        #[cfg(test)]
        pub(crate) const $table: $crate::abi::Item = $crate::abi::Item::Structure(
            &[$($doc),*], stringify!($name), &[$((&[$($field_doc),*], stringify!($field), stringify!($ty))),*],
        );
    };
}

/// Defines an enumeration of C, its constants in Rust, and its entry of the table.
macro_rules! c_enumeration {
    ($table:ident; $(#[doc = $doc:literal])* enum $name:ident { $(#[doc = $value_doc:literal] $value:ident = $number:expr,)* }) => {
        $(#[doc = $value_doc] pub const $value: i32 = $number;)*
        #[cfg(test)]
        pub(crate) const $table: $crate::abi::Item = $crate::abi::Item::Enumeration(
            &[$($doc),*], stringify!($name), &[$(($value_doc, stringify!($value), $number as i64)),*],
        );
    };
}

pub mod ffi;
pub mod blob;
#[cfg(test)]
mod header;
