//! `/dev/watchdog`: the host resets itself when the agent stops feeding the device while it holds a lease.
//!
//! Owns: [`Watchdog`], when the device is opened, fed and let go; and the device behind a seam. What can hurt: a device
//! whose time is longer than the lease (it would reset too late, so it is not armed), and a host that resets although
//! all is well: it is fed only under a lease that holds for longer than the device's time, and let go with the magic
//! character in good order. Refuses: closing the device without the magic character but at the agent's own death, which
//! is what it is there for.
#![expect(unsafe_code, reason = "one ioctl that no crate in use wraps")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use crate::clock::BootNs;

/// What a watchdog device offers.
pub trait Device: Send {
    /// Asks for a time in seconds; gives the one that it took.
    ///
    /// # Errors
    /// When it cannot be set.
    fn set_timeout(&mut self, seconds: i32) -> io::Result<i32>;

    /// Begins the time anew.
    ///
    /// # Errors
    /// When the device does not take it.
    fn feed(&mut self) -> io::Result<()>;

    /// Stops the device, unless its driver never stops ("nowayout").
    ///
    /// # Errors
    /// When the device does not take it.
    fn disarm(self: Box<Self>) -> io::Result<()>;
}

/// Opens a device, which arms it.
pub type Open = Box<dyn FnMut() -> io::Result<Box<dyn Device>> + Send>;

/// The watchdog of this host.
pub struct Watchdog {
    open: Open,
    timeout_ns: u64,
    device: Option<Box<dyn Device>>,
    /// The last refusal, told once.
    refusal: Option<String>,
}

impl std::fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watchdog").field("is_armed", &self.is_armed()).finish_non_exhaustive()
    }
}

/// Whole seconds of the device's time for a lease: the most that is not longer. `None`: there is none.
#[must_use]
pub fn timeout_s(lease_ns: u64) -> Option<i32> {
    i32::try_from(lease_ns / 1_000_000_000).ok().filter(|seconds| *seconds > 0)
}

impl Watchdog {
    /// The device at `path`, for leases of `lease_ns`. Opens nothing yet.
    #[must_use]
    pub fn new(path: PathBuf, lease_ns: u64) -> Self {
        Self::with(Box::new(move || Ok(Box::new(Real::open(&path)?))), lease_ns)
    }

    /// Another device, for tests.
    #[must_use]
    pub fn with(open: Open, lease_ns: u64) -> Self {
        let seconds = timeout_s(lease_ns).unwrap_or(0);
        Self { open, timeout_ns: u64::from(seconds.unsigned_abs()) * 1_000_000_000, device: None, refusal: None }
    }

    /// To be called by the control loop at every turn while the node holds its lease, valid until `valid_until`. It
    /// feeds only while the lease holds for longer than the device's time, so that a reset comes before the lease ends.
    ///
    /// # Errors
    /// Why the device cannot be used, when that is new.
    pub fn feed(&mut self, valid_until: BootNs, now: BootNs) -> Result<(), String> {
        if self.timeout_ns == 0 {
            return self.refuse("the lease is shorter than a second, and a watchdog counts in seconds".to_owned());
        }
        if valid_until.since_ns(now) < self.timeout_ns {
            return Ok(());
        }
        if self.device.is_none() {
            match self.arm() {
                Ok(device) => self.device = Some(device),
                Err(why) => return self.refuse(why),
            }
        }
        match self.device.as_mut().map_or(Ok(()), |device| device.feed()) {
            Ok(()) => {
                self.refusal = None;
                Ok(())
            }
            // It stays open: whether it still counts is not known, and the next turn feeds it again.
            Err(error) => self.refuse(format!("the watchdog cannot be fed: {error}")),
        }
    }

    /// To be called when the lease was given back or has ended, and nothing is served here any more: in good order.
    ///
    /// # Errors
    /// When the device does not let go; this host may then reset itself.
    pub fn release(&mut self) -> Result<(), String> {
        let Some(device) = self.device.take() else { return Ok(()) };
        device.disarm().map_err(|error| format!("the watchdog does not let go: {error}; this host may reset itself"))
    }

    /// Whether the device is open, and counts.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.device.is_some()
    }

    fn arm(&mut self) -> Result<Box<dyn Device>, String> {
        let mut device = (self.open)().map_err(|error| format!("the watchdog cannot be opened: {error}"))?;
        let seconds = i32::try_from(self.timeout_ns / 1_000_000_000).unwrap_or(i32::MAX);
        let why = match device.set_timeout(seconds) {
            Ok(taken) if taken <= seconds => return Ok(device),
            Ok(taken) => {
                format!("the watchdog takes {taken} s at least, more than the lease; raise `failover.lease_ms`")
            }
            Err(error) => format!("the watchdog's time cannot be set: {error}"),
        };
        match device.disarm() {
            Ok(()) => Err(why),
            Err(error) => Err(format!("{why}; and it does not let go: {error}; this host may reset itself")),
        }
    }

    fn refuse(&mut self, why: String) -> Result<(), String> {
        if self.refusal.as_ref() == Some(&why) {
            return Ok(());
        }
        self.refusal = Some(why.clone());
        Err(why)
    }
}

/// A file such as `/dev/watchdog`.
struct Real(File);

impl Real {
    fn open(path: &PathBuf) -> io::Result<Self> {
        // Write only, and no flag that would make a plain file of a path that has no device.
        OpenOptions::new().write(true).open(path).map(Self)
    }
}

// From linux/watchdog.h: _IOWR('W', 6, int).
nix::ioctl_readwrite!(wdioc_settimeout, b'W', 6, libc::c_int);

impl Device for Real {
    fn set_timeout(&mut self, seconds: i32) -> io::Result<i32> {
        let mut value: libc::c_int = seconds;
        // SAFETY: the descriptor is open for as long as `self`; the request reads and writes one int, which is `value`.
        // A file that is no watchdog answers ENOTTY.
        unsafe { wdioc_settimeout(self.0.as_raw_fd(), &raw mut value) }?;
        Ok(value)
    }

    fn feed(&mut self) -> io::Result<()> {
        self.0.write_all(b"\0")
    }

    fn disarm(mut self: Box<Self>) -> io::Result<()> {
        self.0.write_all(b"V")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, PoisonError};

    const S: u64 = 1_000_000_000;

    /// Writes down what is done with it.
    struct Fake {
        book: Arc<Mutex<Vec<String>>>,
        shortest: i32,
    }

    impl Fake {
        fn note(&self, what: String) {
            self.book.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        }
    }

    impl Device for Fake {
        fn set_timeout(&mut self, seconds: i32) -> io::Result<i32> {
            self.note(format!("timeout {seconds}"));
            Ok(seconds.max(self.shortest))
        }
        fn feed(&mut self) -> io::Result<()> {
            self.note("feed".to_owned());
            Ok(())
        }
        fn disarm(self: Box<Self>) -> io::Result<()> {
            self.note("V".to_owned());
            Ok(())
        }
    }

    fn fake(lease_ns: u64, shortest: i32) -> (Watchdog, Arc<Mutex<Vec<String>>>) {
        let book = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&book);
        let open = move || -> io::Result<Box<dyn Device>> { Ok(Box::new(Fake { book: Arc::clone(&kept), shortest })) };
        (Watchdog::with(Box::new(open), lease_ns), book)
    }

    fn taken(book: &Arc<Mutex<Vec<String>>>) -> Vec<String> {
        std::mem::take(&mut *book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[test]
    fn it_is_armed_and_fed_only_under_a_lease_that_outlasts_it_and_let_go_in_good_order() {
        let (mut dog, book) = fake(3 * S / 2, 1);
        // A lease that ends before the device would.
        assert_eq!((dog.feed(BootNs(S / 2), BootNs(0)), dog.is_armed()), (Ok(()), false));
        assert_eq!((dog.feed(BootNs(3 * S / 2), BootNs(0)), dog.is_armed()), (Ok(()), true));
        assert_eq!(taken(&book), ["timeout 1", "feed"]);
        // Not renewed: the last feed is a second before the end, and the device fires at the end at the latest.
        for ms in (0..1500).step_by(50) {
            dog.feed(BootNs(3 * S / 2), BootNs(ms * 1_000_000)).expect("fed");
        }
        assert_eq!(taken(&book), vec!["feed"; 11]);
        dog.release().expect("let go");
        assert_eq!((taken(&book), dog.is_armed()), (vec!["V".to_owned()], false));
        dog.release().expect("nothing to let go");
        assert!(taken(&book).is_empty());
        dog.feed(BootNs(10 * S), BootNs(8 * S)).expect("armed again");
        assert_eq!(taken(&book), ["timeout 1", "feed"]);
    }

    #[test]
    fn a_device_that_is_too_slow_is_let_go_at_once_and_said_once() {
        let (mut dog, book) = fake(3 * S / 2, 10);
        let said = dog.feed(BootNs(3 * S / 2), BootNs(0)).expect_err("too slow");
        assert!(said.contains("10 s") && said.contains("lease_ms"), "{said}");
        assert_eq!(taken(&book), ["timeout 1", "V"]);
        assert_eq!(dog.feed(BootNs(3 * S / 2), BootNs(0)), Ok(()));
        assert!(!dog.is_armed());
        let (mut dog, book) = fake(S / 2, 1);
        assert!(dog.feed(BootNs(S / 2), BootNs(0)).expect_err("too short").contains("second"));
        assert!(taken(&book).is_empty());
    }

    #[test]
    fn what_is_no_watchdog_is_refused_and_a_pipe_gets_the_magic_character() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut absent = Watchdog::new(folder.path().join("absent"), 2 * S);
        assert!(absent.feed(BootNs(2 * S), BootNs(0)).expect_err("absent").contains("cannot be opened"));
        assert!(!folder.path().join("absent").exists());
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
        let mut pipe = Watchdog::new(path.clone(), 2 * S);
        assert!(pipe.feed(BootNs(2 * S), BootNs(0)).expect_err("no watchdog").contains("cannot be set"));
        let mut device: Box<dyn Device> = Box::new(Real::open(&path).expect("opened"));
        device.feed().expect("fed");
        device.disarm().expect("let go");
        let mut bytes = [0; 3];
        io::Read::read_exact(&mut reader, &mut bytes).expect("read");
        assert_eq!(&bytes, b"V\0V");
    }

    /// `UNDERSTUDY_TEST_WATCHDOG` names a device that does not reset the host, such as that of
    /// `modprobe softdog soft_noboot=1`.
    #[test]
    fn a_real_device_takes_its_time_and_lets_go() {
        let Some(path) = std::env::var_os("UNDERSTUDY_TEST_WATCHDOG") else {
            println!("SKIPPED a_real_device_takes_its_time_and_lets_go: `UNDERSTUDY_TEST_WATCHDOG` names no device");
            return;
        };
        let mut dog = Watchdog::new(path.into(), 2 * S);
        dog.feed(BootNs(2 * S), BootNs(0)).expect("fed");
        assert!(dog.is_armed());
        dog.release().expect("let go");
    }
}
