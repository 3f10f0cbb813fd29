//! Central storage in an S3 bucket (Garage, MinIO, Ceph, …) through `object_store`.
//!
//! Owns: one object per body, and a small runtime of its own, so that callers stay synchronous. What can hurt: a
//! server that answers slowly or not at all; every request has a time-out and few retries, because the caller's thread
//! (an uploader or an apply worker, never the event loop) has other bodies to see to, and tries again by itself. And an
//! object of the right length may hold the wrong bytes: what was not stored or read whole a moment ago is read before
//! it is taken for stored, so that one body for a thousand recipients costs one request, and an export mends damage.
//! Refuses: taking a server that cannot be reached for a body that is missing.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, ObjectStore, PutPayload, RetryConfig};
use understudy_types::id::BlobId;

use super::{BlobError, BlobStore, Put, directory, hash_reader, relative_path};
use crate::clock::{self, MonoNs};
use crate::limits::{
    BLOB_BYTES_MAX, S3_CONNECT_MS_MAX, S3_KNOWN_MAX, S3_KNOWN_MS_MAX, S3_REQUEST_MS_MAX, S3_RETRIES_MAX,
};

/// Where the bucket is and who asks.
#[derive(Clone, Debug)]
pub struct S3Config {
    pub endpoint: String,
    pub bucket: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
    pub allow_http: bool,
    /// Path in the bucket below which the blobs lie; may be empty.
    pub prefix: String,
}

/// A bucket.
pub struct S3 {
    client: Arc<dyn ObjectStore>,
    runtime: tokio::runtime::Runtime,
    prefix: String,
    name: String,
    /// Bodies that were whole when they were last seen, and when.
    known: Mutex<HashMap<BlobId, MonoNs>>,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3").field("name", &self.name).finish_non_exhaustive()
    }
}

impl S3 {
    /// Prepares the client; nothing is sent yet.
    ///
    /// # Errors
    /// When the configuration is not usable.
    pub fn open(config: &S3Config) -> Result<Self, BlobError> {
        let id = BlobId([0; 32]);
        let client = AmazonS3Builder::new()
            .with_endpoint(&config.endpoint)
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            .with_access_key_id(&config.access_key)
            .with_secret_access_key(&config.secret_key)
            .with_allow_http(config.allow_http)
            .with_virtual_hosted_style_request(false)
            .with_client_options(
                ClientOptions::new()
                    .with_allow_http(config.allow_http)
                    .with_connect_timeout(Duration::from_millis(S3_CONNECT_MS_MAX))
                    .with_timeout(Duration::from_millis(S3_REQUEST_MS_MAX)),
            )
            .with_retry(RetryConfig {
                max_retries: S3_RETRIES_MAX,
                retry_timeout: Duration::from_millis(S3_REQUEST_MS_MAX),
                ..RetryConfig::default()
            })
            .build()
            .map_err(|error| BlobError::Remote { id, reason: error.to_string() })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("understudy-s3")
            .enable_all()
            .build()
            .map_err(|error| BlobError::Remote { id, reason: error.to_string() })?;
        let name = format!("bucket {} at {}", config.bucket, config.endpoint);
        Ok(Self { client: Arc::new(client), runtime, prefix: config.prefix.clone(), name, known: Mutex::default() })
    }

    fn key(&self, id: BlobId) -> ObjectPath {
        let below = relative_path(id);
        if self.prefix.is_empty() {
            ObjectPath::from(below)
        } else {
            ObjectPath::from(format!("{}/{below}", self.prefix))
        }
    }

    fn is_known(&self, id: BlobId) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).is_some_and(|seen| clock::mono().since_ns(*seen) < S3_KNOWN_MS_MAX * 1_000_000)
    }

    fn note(&self, id: BlobId, whole: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= S3_KNOWN_MAX {
            known.clear();
        }
        if whole {
            known.insert(id, clock::mono());
        } else {
            known.remove(&id);
        }
    }

    /// The object, if it is there.
    fn object(&self, id: BlobId) -> Result<bytes::Bytes, BlobError> {
        let got = self.runtime.block_on(async {
            let got = self.client.get(&self.key(id)).await?;
            if got.meta.size > BLOB_BYTES_MAX {
                return Ok(Err(got.meta.size));
            }
            got.bytes().await.map(Ok)
        });
        got.map_err(remote(id))?.map_err(|bytes| BlobError::TooLarge { id, bytes })
    }

    /// Whether the object is what its name says.
    fn is_whole(&self, id: BlobId) -> Result<bool, BlobError> {
        let content = self.object(id)?;
        Ok(hash_reader(&mut content.as_ref(), BLOB_BYTES_MAX).is_ok_and(|(actual, _)| actual == id))
    }

    fn length(&self, id: BlobId) -> Result<Option<u64>, BlobError> {
        match self.runtime.block_on(self.client.head(&self.key(id))) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(remote(id)(error)),
        }
    }
}

fn remote(id: BlobId) -> impl FnOnce(object_store::Error) -> BlobError {
    move |error| match error {
        object_store::Error::NotFound { .. } => BlobError::Missing(id),
        other => BlobError::Remote { id, reason: other.to_string() },
    }
}

impl BlobStore for S3 {
    fn put(&self, id: BlobId, file: &Path) -> Result<Put, BlobError> {
        let bytes = fs::metadata(file).map_err(BlobError::io("look at", file))?.len();
        if bytes > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge { id, bytes });
        }
        if self.is_known(id) || (self.length(id)? == Some(bytes) && self.is_whole(id)?) {
            self.note(id, true);
            return Ok(Put::AlreadyThere);
        }
        let content = fs::read(file).map_err(BlobError::io("read the body", file))?;
        let actual = BlobId(*blake3::hash(&content).as_bytes());
        if actual != id {
            return Err(BlobError::Damaged { id, actual });
        }
        let key = self.key(id);
        self.runtime.block_on(self.client.put(&key, PutPayload::from(content))).map_err(remote(id))?;
        self.note(id, true);
        Ok(Put::Stored { bytes })
    }

    fn get(&self, id: BlobId, to: &Path) -> Result<(), BlobError> {
        let content = self.object(id).inspect_err(|_| self.note(id, false))?;
        let copied = directory::copy_hashed(&mut content.as_ref(), to, id, false);
        self.note(id, copied.is_ok());
        copied.map(drop)
    }

    fn has(&self, id: BlobId) -> Result<bool, BlobError> {
        self.length(id).map(|length| length.is_some())
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests;
