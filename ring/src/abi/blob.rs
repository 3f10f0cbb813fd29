//! Checksums for the store's side in C: BLAKE3 of message bodies, CRC-32C of records.
//!
//! Owns: the incremental hasher behind a handle. It knows nothing of rings.
//! What can hurt: the same as in every function of the ABI; null is taken, panics are caught.

#![expect(unsafe_code, reason = "the C ABI takes raw pointers")]

/// An incremental BLAKE3 hasher.
#[expect(non_camel_case_types, reason = "the name in C")]
#[derive(Debug)]
pub struct us_blob_hasher(blake3::Hasher);

/// # Safety
/// `bytes` is null or points to `length` readable bytes.
unsafe fn slice<'a>(bytes: *const u8, length: usize) -> &'a [u8] {
    if bytes.is_null() || length == 0 || isize::try_from(length).is_err() {
        return &[];
    }
    // SAFETY: not null, as long as the caller promised, and no longer than a slice may be.
    unsafe { std::slice::from_raw_parts(bytes, length) }
}

c_functions! { FUNCTIONS;
    /// A new hasher; null when there is no memory.
    fn us_blob_hasher_new() -> *mut us_blob_hasher {
        Box::into_raw(Box::new(us_blob_hasher(blake3::Hasher::new())))
    } on_panic std::ptr::null_mut();

    /// Adds bytes. Null is nothing.
    fn us_blob_hasher_update(hasher: *mut us_blob_hasher, bytes: *const u8, length: usize) {
        // SAFETY: null or a hasher that nobody else uses; the bytes are as many as the caller says.
        if let Some(hasher) = unsafe { hasher.as_mut() } {
            // SAFETY: as above.
            hasher.0.update(unsafe { slice(bytes, length) });
        }
    } on_panic ();

    /// Writes the 32 bytes of the hash of what was added so far. More may be added afterwards. Null is nothing.
    fn us_blob_hasher_finish(hasher: *const us_blob_hasher, hash: *mut u8) {
        // SAFETY: null or a hasher that nobody else uses.
        if let (Some(hasher), false) = (unsafe { hasher.as_ref() }, hash.is_null()) {
            let value = hasher.0.finalize();
            // SAFETY: the caller's 32 bytes.
            unsafe { std::ptr::copy_nonoverlapping(value.as_bytes().as_ptr(), hash, 32) };
        }
    } on_panic ();

    /// Frees a hasher. Null is nothing.
    fn us_blob_hasher_free(hasher: *mut us_blob_hasher) {
        if !hasher.is_null() {
            // SAFETY: it came from `us_blob_hasher_new` and was not freed before.
            drop(unsafe { Box::from_raw(hasher) });
        }
    } on_panic ();

    /// CRC-32C (Castagnoli) of bytes, going on from `crc`; start with 0.
    fn us_crc32c(crc: u32, bytes: *const u8, length: usize) -> u32 {
        // SAFETY: the bytes are as many as the caller says.
        crc32c::crc32c_append(crc, unsafe { slice(bytes, length) })
    } on_panic crc;
}
