//! Starting a node: every part in the order in which the next one needs it.
//!
//! Owns: the order. Journal before transport (a peer asks for positions), transport before workers (they ask for
//! snapshots), everything before the ring (its first record may be acknowledged at once).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use crossbeam::channel::{Sender, bounded, unbounded};
use understudy_ring::{ConsumerOptions, Geometry};
use understudy_types::beat::Beat;
use understudy_types::id::NodeId;

use super::accounts::Accounts;
use super::admin::NodeAdmin;
use super::availability::Availability;
use super::board::Board;
use super::convene::{self, convene, first_roles};
use super::core::Core;
use super::council::Council;
use super::council::kick::Kicker;
use super::held::NodeOrders;
use super::holds::Holds;
use super::merging::Merging;
use super::pausing::CoordinatorKeeper;
use super::query::Query;
use super::raise::Raiser;
use super::remote::{Answering, Asks};
use super::roles::Roles;
use super::routing::Director;
use super::senses::Senses;
use super::stood::Stood;
use super::verify::{Connect, Verifier};
use super::{Inbox, census, compare};
use crate::apply::cursor::Cursors;
use crate::apply::worker::{Shared, Workers};
use crate::batch::BatchLimits;
use crate::beat::{self, BeatSender, BeatSlot, BeatTable, Speaker};
use crate::blob::BlobStore;
use crate::blob::cache::BodyCache;
use crate::blob::directory::Directory;
use crate::blob::s3::{S3, S3Config};
use crate::blob::spool::Spool;
use crate::blob::upload::Uploader;
use crate::capture::Capture;
use crate::capture::view::{SharedView, View, policy};
use crate::clock;
use crate::config::model::{BlobKind, CoordinatorKind, IoBackend, ProbeMode};
use crate::config::{Config, Loaded, Placement};
use crate::control::{self, Control};
use crate::evidence::{self, EvidenceConfig, EvidenceThread};
use crate::failover::{Input, budget};
use crate::frame::FrameCodec;
use crate::journal::{self, Journal, JournalConfig};
use crate::ledger::file::Keeper as LedgerKeeper;
use crate::limits::{CAPTURE_QUEUE_MAX, EVENTS_MAX, JOURNAL_CACHE_BYTES, STORE_EXPORT_MS_MAX};
use crate::merge::Forks;
use crate::metrics::Metrics;
use crate::pause::{Keeper, Pauses};
use crate::pressure::PressureReader;
use crate::probe::{Probe, ProbeConfig, Source};
use crate::receive::Receiver;
use crate::resync::{Exporters, Queue};
use crate::routing::{self, Routing};
use crate::rules::Rules;
use crate::ship::{ShipLimits, Shipper};
use crate::store::dovecot::{DovecotConfig, DovecotStore};
use crate::store::{RaiseGap, Store};
use crate::transport::{PeerConfig, TlsPaths, Transport, TransportConfig, TransportLimits};

/// A node that is ready to loop.
pub(super) struct Started {
    pub core: Core,
    pub inbox: Inbox,
    pub control: Control,
    /// `None`: no proxy asks here.
    pub routing: Option<Routing>,
}

#[expect(clippy::cast_precision_loss, reason = "the metric is a double")]
fn wall_seconds() -> f64 {
    clock::wall_ns() as f64 / 1e9
}

fn backend(config: IoBackend) -> journal::IoBackend {
    match config {
        IoBackend::Auto => journal::IoBackend::Auto,
        IoBackend::IoUring => journal::IoBackend::IoUring,
        IoBackend::Plain => journal::IoBackend::Plain,
    }
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    let mut found = text.to_socket_addrs().with_context(|| format!("cannot resolve the address `{text}`"))?;
    found.next().ok_or_else(|| anyhow!("the address `{text}` has no IP address"))
}

fn blobs(config: &Config) -> anyhow::Result<Arc<dyn BlobStore>> {
    let blobs = &config.blobs;
    Ok(match blobs.kind {
        BlobKind::Directory => Arc::new(Directory::open(&blobs.path)?),
        BlobKind::S3 => {
            let need =
                |value: Option<String>, key: &str| value.ok_or_else(|| anyhow!("`blobs.{key}` is needed for S3"));
            Arc::new(S3::open(&S3Config {
                endpoint: need(blobs.endpoint.clone(), "endpoint")?,
                bucket: need(blobs.bucket.clone(), "bucket")?,
                region: blobs.region.clone(),
                access_key: need(blobs.access_key()?, "access_key")?,
                secret_key: need(blobs.secret_key()?, "secret_key")?,
                allow_http: blobs.allow_http,
                prefix: blobs.prefix.clone(),
            })?)
        }
    })
}

/// Starts everything.
#[expect(clippy::too_many_lines, reason = "one list of parts in the order of their start")]
pub(super) fn start(loaded: Loaded) -> anyhow::Result<Started> {
    let loaded = Arc::new(loaded);
    let config = Arc::new(loaded.config.clone());
    let now = clock::mono();
    let (node, cluster) = (config.node_id(), config.node.cluster.id());
    let incarnation = clock::wall_ns();
    for directory in [&config.node.data_dir, &config.node.runtime_dir, &config.journal.dir] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot create `{}`", directory.display()))?;
    }
    let (rules, problems) = Rules::build(&config);
    if let Some(problem) = problems.first() {
        return Err(anyhow!("{}: {}; {}", problem.key, problem.problem, problem.remedy));
    }
    let placement = Placement::build(&config)
        .map_err(|problems| anyhow!("{}", problems.first().map_or("placement", |problem| problem.problem.as_str())))?;
    let view = SharedView::new(View { node, rules, placement, seats: HashMap::new() });
    let metrics = Arc::new(Metrics::new());
    metrics.start_time.set(wall_seconds());
    let board = Arc::new(Board::default());

    let (journal, recovered) = Journal::open(
        JournalConfig {
            directory: config.journal.dir.clone(),
            cluster,
            node,
            io_backend: backend(config.journal.io_backend),
            segment_bytes: config.journal.segment_bytes,
            journal_bytes_max: config.journal.bytes_max,
            free_bytes_min: config.journal.free_bytes_min,
            cache_bytes_max: JOURNAL_CACHE_BYTES,
        },
        now,
    )?;
    for damage in &recovered.damage {
        tracing::error!(%damage, "the journal is damaged; what stands around it was kept");
    }
    if let Some(refusal) = &recovered.io_refusal {
        tracing::warn!(%refusal, "the journal works with plain system calls");
    }
    let reader = journal.reader();

    let (transport_events, transport_inbox) = bounded(EVENTS_MAX);
    let peers = config
        .peers
        .iter()
        .map(|peer| {
            Ok(PeerConfig {
                node: peer.node_id(),
                address: address(&peer.address)?,
                dial: true,
                bytes_per_second_max: peer.bytes_per_second_max.unwrap_or(config.transport.bytes_per_second_max),
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let tls = &config.transport.tls;
    let transport = Transport::start(
        TransportConfig {
            node,
            cluster,
            incarnation,
            software: format!("understudy {}", env!("CARGO_PKG_VERSION")),
            listen: address(&config.transport.listen)?,
            peers,
            tls: TlsPaths { authority: tls.ca.clone(), certificate: tls.cert.clone(), key: tls.key.clone() },
            limits: TransportLimits::default(),
            backend: backend(config.transport.io_backend),
        },
        transport_events,
    )?;

    let store = DovecotConfig::new(config.store.replay_socket.clone(), Some(config.store.spool_dir.clone()));
    let export_store = DovecotConfig { timeout_dump: [Duration::from_millis(STORE_EXPORT_MS_MAX); 2], ..store.clone() };
    let connect: Connect = Arc::new(move || -> Box<dyn Store> { Box::new(DovecotStore::new(store.clone())) });
    let storage = blobs(&config)?;
    let staging = config.node.runtime_dir.join("bodies");
    let pauses_file = config.node.data_dir.join("pauses.json");
    let pauses =
        Pauses::open(&pauses_file).with_context(|| format!("cannot read the pauses in `{}`", pauses_file.display()))?;
    let shared = Arc::new(Shared {
        frames: Box::new(reader.clone()),
        bodies: BodyCache::open(&staging, storage.clone())?,
        cursors: Cursors::open(&config.node.data_dir.join("applied.redb"))?,
        orders: Box::new(NodeOrders { node, view: view.clone(), pauses: pauses.clone() }),
    });
    let (apply_events, applied) = bounded(EVENTS_MAX);
    let workers = Workers::start(config.store.apply_workers, &shared, || connect(), sender(apply_events))?;
    let spool = Spool::new(&config.store.spool_dir);
    std::fs::create_dir_all(spool.root()).context("cannot create the spool directory")?;
    let (upload_events, uploads) = bounded(EVENTS_MAX);
    let uploader = Uploader::start(&spool, &storage, sender(upload_events))?;
    spool.clean()?;
    spool.list()?.into_iter().for_each(|id| uploader.want(id));
    let (export_events, exports) = bounded(EVENTS_MAX);
    let exporters = Exporters::start(|| Box::new(DovecotStore::new(export_store.clone())), &export_events)?;
    let (query_sender, queries) = unbounded();
    let names = {
        let config = config.clone();
        Arc::new(move |node: NodeId| config.node_name(node))
    };
    let verifier = Verifier {
        connect: connect.clone(),
        queries: query_sender.clone(),
        board: board.clone(),
        view: view.clone(),
        names,
        forks: Arc::new(Forks::open(&config.node.data_dir.join("forks.redb"))?),
        shared: shared.clone(),
    };
    let holds = Holds { node, verifier: verifier.clone(), shared, blobs: storage.clone() };
    let answering = Answering::begin(&holds, &transport)?;
    let accounts = {
        let view = view.read();
        Accounts::open(&config.node.data_dir.join("accounts.redb"), |account| view.placement.group_of(account))?
    };

    let merging = Merging::start(&verifier, export_store, &storage, &spool, &config.node.data_dir)?;
    let (captured_events, captured) = bounded(CAPTURE_QUEUE_MAX);
    let ring_group = config.ring.group.as_deref().map(group_id).transpose()?;
    let options = ConsumerOptions {
        geometry: Geometry { data_bytes: config.ring.bytes, ..Geometry::default() },
        mode: config.ring.mode,
        group: ring_group,
        default_policy: policy(view.read().rules.resolve(""), 1),
        leased: config.coordinator.kind != CoordinatorKind::None,
    };
    if let Some(directory) = config.ring.path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot create `{}`", directory.display()))?;
    }
    let capture = Capture::start(&config.ring.path, &options, view.clone(), captured_events)?;

    let shared = config.coordinator.kind != CoordinatorKind::None;
    let gap = RaiseGap { uid: config.failover.uid_gap, modseq: config.failover.modseq_gap };
    let raiser = Raiser::start(&connect, &query_sender, &verifier.forks, gap)?;
    let roles = Roles::new(shared, Stood::open(&config.node.data_dir)?, raiser, Kicker::start(&connect)?);
    let (council_inputs, council_inbox) = unbounded();
    let (council_asks, council_asked) = unbounded();
    let council = if shared { Council::new(council_inputs, council_asks.clone()) } else { Council::default() };

    let mail_path = config.store.mail_paths.first().cloned();
    let speaker = Speaker {
        node,
        boot: beat::this_boot(),
        incarnation: u32::try_from(incarnation / 1_000_000_000).unwrap_or(u32::MAX),
    };
    let slot = Arc::new(BeatSlot::default());
    let beats_to: Vec<NodeId> = config.peers.iter().map(crate::config::model::Peer::node_id).collect();
    let beat_transport = transport.clone();
    let silent = Beat::unknown(node, speaker.boot, speaker.incarnation);
    let every = Duration::from_millis(config.agent.beat_interval_ms);
    let beat_sender = BeatSender::start(slot.clone(), silent, every, move |bytes| {
        for peer in &beats_to {
            // A beat that cannot be sent is lost, as beats are.
            let _ = beat_transport.send_beat(*peer, bytes);
        }
    })?;
    let probe = Probe::start(ProbeConfig {
        store_pid: None,
        store_paths: config.store.mail_paths.clone(),
        measure_cost: false,
        without_kernel_programs: config.agent.probe == ProbeMode::Off,
    })?;
    for capability in probe.capabilities.iter().filter(|capability| !capability.ok) {
        tracing::warn!(
            hook = capability.hook,
            reason = capability.reason,
            remedy = capability.remedy,
            "the probe is blind here"
        );
    }
    let evidence = if shared {
        let evidence = EvidenceConfig {
            node,
            pid_file: config.store.master_pid_file.clone(),
            mail_path: config.store.mail_paths.first().cloned(),
            store: connect(),
            looks: (probe.source == Source::Kernel).then(|| probe.looks.clone()),
            stall_ms: config.failover.store_stall_ms,
        };
        let council = council.clone();
        let push = move |report: evidence::Report| {
            council.tell(Input::Store { good_at: report.good_at, why: report.why });
        };
        Some(EvidenceThread::start(evidence, push)?)
    } else {
        None
    };
    let probes = Senses {
        probe: Some(probe),
        pressure: PressureReader::new(None, mail_path),
        sender: Some(beat_sender),
        slot,
        speaker,
        signal: None,
        store_pid: None,
        pid_file: config.store.master_pid_file.clone(),
        store_version: Arc::default(),
        dial_errors: HashMap::new(),
        evidence,
        watch: super::watch::Watch::start(&config, now)?,
    };
    probes.ask_version(connect())?;
    let tuning = &config.tuning;
    let first_index = capture.first_index;
    let mut core = Core {
        limits: BatchLimits {
            ops_max: tuning.batch_ops_max,
            bytes_max: tuning.batch_bytes_max,
            linger_ns: tuning.batch_linger_us * 1_000,
        },
        config: config.clone(),
        node,
        cluster,
        view: view.clone(),
        metrics: metrics.clone(),
        board,
        capture,
        journal,
        reader,
        recovered,
        transport,
        workers,
        uploader,
        exporters,
        answering,
        accounts,
        queue: Queue::default(),
        shipper: Shipper::new(ShipLimits::default()),
        receiver: Receiver::new(),
        own: BTreeMap::new(),
        asks: Asks::default(),
        beats: BeatTable::default(),
        codec: FrameCodec::new(),
        dirty: BTreeSet::new(),
        ring_pending: VecDeque::new(),
        ring_read: first_index,
        ring_released: first_index,
        unsent: VecDeque::new(),
        links: HashMap::new(),
        dialled_by: HashMap::new(),
        roles,
        council,
        queries: query_sender.clone(),
        orders: super::orders::Orders::default(),
        posture: None,
        lost_groups: BTreeMap::new(),
        rebase_next: BTreeSet::new(),
        peer_resync: BTreeMap::new(),
        parked: super::parked::ParkedBoard::default(),
        pauses: pauses.clone(),
        settling: super::held::Settling::new(),
        snapshot_ends: Vec::new(),
        foreign_asked: BTreeMap::new(),
        merging,
        unread: super::debts::Unread::default(),
        last_snapshot: 0,
        gaps_total: 0,
        foreign_total: 0,
        quarantine_told: BTreeSet::new(),
        probes,
        availability: Availability::new(LedgerKeeper::start(config.node.data_dir.join("availability"))?),
        lagging: super::routing::Laggings::default(),
        started: now,
        failure: None,
        stopping: false,
        now,
    };
    // Accounts that placement or rules name get their first copy without waiting for their users.
    let named: BTreeSet<String> = {
        let view = view.read();
        view.placement.placed_accounts().map(str::to_owned).chain(view.rules.named_accounts()).collect()
    };
    core.roles.names.extend(named.iter().cloned().chain(core.accounts.iter().map(|(account, _)| account.to_owned())));
    first_roles(&mut core);
    named.iter().for_each(|account| core.seen(account));
    core.resume_debts();
    // Sessions that live on ask for their policy anew: rules or placement may have changed while no agent was there.
    core.policy_changed();
    new_ring(&mut core)?;

    if shared {
        convene(&core, &query_sender, council_inbox, council_asked)?;
    }
    census::start(&connect, query_sender.clone())?;
    compare::start(verifier.clone(), query_sender.clone())?;
    let routing = route(&config, &view, &core.board, &query_sender)?;
    let keeper: Arc<dyn Keeper> =
        if shared { Arc::new(CoordinatorKeeper { queries: query_sender.clone() }) } else { Arc::new(pauses.clone()) };
    let admin = Arc::new(NodeAdmin {
        holds,
        pauses,
        keeper,
        merger: core.merging.merger.clone(),
        ledger: core.availability.keeper.clone(),
        takeover_ms: budget::stages(&convene::settings(&config)?).ms_max(),
        queries: query_sender.clone(),
        asks: shared.then_some(council_asks),
        verifier,
        view,
        loaded,
    });
    let control = control::serve(&config, admin.clone(), metrics)?;
    signals(query_sender, admin)?;
    let inbox = Inbox {
        captured,
        journal: core.journal.events().clone(),
        transport: transport_inbox,
        applied,
        uploads,
        exports,
        queries,
    };
    Ok(Started { core, inbox, control, routing })
}

/// Opens the doors for proxies, where there are any. Only then must every node have addresses for them.
fn route(
    config: &Config,
    view: &SharedView,
    board: &Arc<Board>,
    queries: &Sender<Query>,
) -> anyhow::Result<Option<Routing>> {
    let wanted = &config.routing;
    let listens = [&wanted.http_listen, &wanted.socketmap_listen, &wanted.agent_check_listen];
    if listens.into_iter().flatten().all(String::is_empty) {
        return Ok(None);
    }
    let director = Director::new(config, view.clone(), board.clone(), queries.clone())?;
    Ok(routing::serve(wanted, Arc::new(director))?)
}

/// A ring that is not the one of the last run (the host was started anew, or somebody removed it) took records along
/// that no journal has: every account that was copied before is compared.
fn new_ring(core: &mut Core) -> anyhow::Result<()> {
    let path = core.config.node.data_dir.join("ring-generation");
    let generation = core.capture.generation.to_string();
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    if before.trim() == generation {
        return Ok(());
    }
    let names: Vec<String> = core.accounts.iter().map(|(account, _)| account.to_owned()).collect();
    if !before.is_empty() {
        tracing::warn!(
            accounts = names.len(),
            "the ring is a new one; what the old one held is lost, all accounts are compared"
        );
        anyhow::ensure!(
            core.want_exports(names.iter().map(String::as_str), false, "the ring is a new one"),
            "cannot note which accounts are to be compared"
        );
    }
    crate::durable::write(&path, generation.as_bytes()).context("cannot note the ring's generation")
}

/// Sends into a bounded channel, waiting for room; what comes after the loop's end is dropped.
fn sender<T: Send + 'static>(channel: Sender<T>) -> impl Fn(T) + Send + Clone + 'static {
    move |event| drop(channel.send(event))
}

fn group_id(name: &str) -> anyhow::Result<u32> {
    let group = nix::unistd::Group::from_name(name).with_context(|| format!("cannot look up the group `{name}`"))?;
    group.map(|group| group.gid.as_raw()).ok_or_else(|| anyhow!("there is no group `{name}` (`ring.group`)"))
}

/// SIGTERM and SIGINT stop the node, SIGHUP makes it read rules and placement again.
fn signals(queries: Sender<Query>, admin: Arc<NodeAdmin>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async move {
            let (Ok(mut term), Ok(mut int), Ok(mut hup)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
            else {
                tracing::error!("signals cannot be waited for; stop the agent with SIGKILL");
                return;
            };
            loop {
                tokio::select! {
                    _ = hup.recv() => match control::Admin::reload(admin.as_ref()) {
                        Ok(done) => tracing::info!("{}", done.done),
                        Err(error) => tracing::error!(error, "the configuration cannot be used; the old one stays"),
                    },
                    _ = term.recv() => break,
                    _ = int.recv() => break,
                }
            }
            let _ = queries.send(Query::Stop);
        });
    })?;
    Ok(())
}
