//! Central storage in an S3 bucket (Garage, MinIO, Ceph, …) through `object_store`.
//!
//! Owns: one object per body, and a small runtime of its own, so that callers stay synchronous. What can hurt: a
//! server that answers slowly or not at all; every request has a time-out and few retries, because the caller's thread
//! (an uploader or an apply worker, never the event loop) has other bodies to see to, and tries again by itself.
//! Refuses: taking a server that cannot be reached for a body that is missing.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, ObjectStore, PutPayload, RetryConfig};
use understudy_types::id::BlobId;

use super::{BlobError, BlobStore, Put, directory, relative_path};
use crate::limits::{BLOB_BYTES_MAX, S3_CONNECT_MS_MAX, S3_REQUEST_MS_MAX, S3_RETRIES_MAX};

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
        Ok(Self { client: Arc::new(client), runtime, prefix: config.prefix.clone(), name })
    }

    fn key(&self, id: BlobId) -> ObjectPath {
        let below = relative_path(id);
        if self.prefix.is_empty() {
            ObjectPath::from(below)
        } else {
            ObjectPath::from(format!("{}/{below}", self.prefix))
        }
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
        if self.length(id)? == Some(bytes) {
            return Ok(Put::AlreadyThere);
        }
        let content = fs::read(file).map_err(BlobError::io("read the body", file))?;
        let actual = BlobId(*blake3::hash(&content).as_bytes());
        if actual != id {
            return Err(BlobError::Damaged { id, actual });
        }
        let key = self.key(id);
        self.runtime.block_on(self.client.put(&key, PutPayload::from(content))).map_err(remote(id))?;
        Ok(Put::Stored { bytes })
    }

    fn get(&self, id: BlobId, to: &Path) -> Result<(), BlobError> {
        let key = self.key(id);
        let content = self
            .runtime
            .block_on(async {
                let got = self.client.get(&key).await?;
                if got.meta.size > BLOB_BYTES_MAX {
                    return Ok(Err(got.meta.size));
                }
                got.bytes().await.map(Ok)
            })
            .map_err(remote(id))?
            .map_err(|bytes| BlobError::TooLarge { id, bytes })?;
        directory::copy_hashed(&mut content.as_ref(), to, id, false).map(drop)
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
