//! The windows that a stream holds: those in use, and those read ahead within a budget of bytes.
//!
//! Windows are asked for in the order in which samples need them, so that what is read ahead is always needed before
//! what is not: no order of arrivals can stand still. Must never hold a window that no coming sample needs.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::order::{ItemSize, Sampler, WindowKey};
use tokio::sync::oneshot;

use super::options::{OnDamage, StreamError};
use super::window::{Source, Window};

/// Loads windows in the background.
#[derive(Clone)]
pub(super) struct Loader {
    pub(super) ambient: Arc<dyn Ambient>,
    pub(super) sources: Arc<[Source]>,
    pub(super) damage: OnDamage,
}

/// What is loaded, and what is on its way.
pub(super) struct Windows {
    loader: Loader,
    tokens: HashMap<WindowKey, Slot<Arc<Window>>>,
    sizes: HashMap<WindowKey, Slot<Arc<[ItemSize]>>>,
    /// Windows that will be needed, in order, for which there was no room yet.
    waiting: VecDeque<WindowKey>,
    /// Bytes of windows of which no sample was taken yet, and of sizes.
    ahead: u64,
    limit: u64,
}

/// A value that is loaded, or is on its way.
struct Slot<T> {
    state: State<T>,
    /// Its bytes that count as read ahead.
    ahead: u64,
}

enum State<T> {
    Loading(oneshot::Receiver<Result<T, StreamError>>),
    Ready(T),
}

impl Loader {
    fn load<T: Send + 'static>(&self, load: impl Future<Output = Result<T, StreamError>> + Send + 'static) -> Slot<T> {
        let (mut sender, receiver) = oneshot::channel();
        self.ambient.spawn(Box::pin(async move {
            // Given up as soon as nobody waits for it.
            tokio::select! {
                loaded = load => drop(sender.send(loaded)),
                () = sender.closed() => {}
            }
        }));
        Slot { state: State::Loading(receiver), ahead: 0 }
    }

    fn tokens(&self, key: WindowKey) -> Slot<Arc<Window>> {
        let loader = self.clone();
        self.load(async move {
            let source = &loader.sources[key.source as usize];
            Ok(Arc::new(source.window(&*loader.ambient, key, loader.damage).await?))
        })
    }

    fn sizes(&self, key: WindowKey) -> Slot<Arc<[ItemSize]>> {
        let loader = self.clone();
        self.load(async move {
            loader.sources[key.source as usize]
                .plan(&*loader.ambient, key, loader.damage)
                .await
                .map(|plan| plan.sizes().into())
        })
    }
}

impl<T: Clone> Slot<T> {
    /// Waits for the value.
    async fn get(&mut self) -> Result<T, StreamError> {
        if let State::Loading(receiver) = &mut self.state {
            match receiver.await {
                Ok(loaded) => self.state = State::Ready(loaded?),
                Err(_) => return Err(StreamError::Broken),
            }
        }
        match &self.state {
            State::Ready(value) => Ok(value.clone()),
            State::Loading(_) => unreachable!("it was waited for"),
        }
    }

    /// Returns the value if it is there. An error stays where it is, for whoever waits.
    fn peek(&mut self) -> Option<T> {
        if let State::Loading(receiver) = &mut self.state {
            match receiver.try_recv() {
                Ok(Ok(value)) => self.state = State::Ready(value),
                Ok(Err(error)) => {
                    let (sender, receiver) = oneshot::channel();
                    drop(sender.send(Err(error)));
                    self.state = State::Loading(receiver);
                }
                Err(_) => {}
            }
        }
        match &self.state {
            State::Ready(value) => Some(value.clone()),
            State::Loading(_) => None,
        }
    }
}

impl Windows {
    /// Starts with nothing; reads at most `limit` bytes ahead, or one window where that is larger.
    pub(super) fn new(loader: Loader, limit: u64) -> Self {
        let (tokens, sizes) = (HashMap::new(), HashMap::new());
        Self { loader, tokens, sizes, waiting: VecDeque::new(), ahead: 0, limit }
    }

    /// Waits for a window of which a sample is taken now.
    pub(super) async fn take(&mut self, key: WindowKey) -> Result<Arc<Window>, StreamError> {
        let slot = self.tokens.entry(key).or_insert_with(|| self.loader.tokens(key));
        self.ahead -= std::mem::take(&mut slot.ahead);
        let taken = slot.get().await;
        if taken.is_err() {
            // Asked for again, it is read again.
            self.tokens.remove(&key);
        }
        taken
    }

    /// Waits for the sizes of a window's samples. With `home` they come from the window, which is read anyhow.
    pub(super) async fn take_sizes(&mut self, key: WindowKey, home: bool) -> Result<Arc<[ItemSize]>, StreamError> {
        if home {
            return Ok(self.take(key).await?.plan.sizes().into());
        }
        let taken = self.sizes.entry(key).or_insert_with(|| self.loader.sizes(key)).get().await;
        match &taken {
            Ok(sizes) => self.count_sizes(key, sizes),
            Err(_) => drop(self.sizes.remove(&key)),
        }
        taken
    }

    /// Returns the sizes of a window's samples, if they are there; else they are read in the background, or wanted.
    pub(super) fn peek_sizes(&mut self, key: WindowKey, home: bool) -> Option<Arc<[ItemSize]>> {
        if home {
            self.want(key);
            self.read_ahead();
            return Some(self.tokens.get_mut(&key)?.peek()?.plan.sizes().into());
        }
        let sizes = self.sizes.entry(key).or_insert_with(|| self.loader.sizes(key)).peek()?;
        self.count_sizes(key, &sizes);
        Some(sizes)
    }

    /// Wants a window that a coming sample needs, after all that were wanted before.
    pub(super) fn want(&mut self, key: WindowKey) {
        if !self.tokens.contains_key(&key) && !self.waiting.contains(&key) {
            self.waiting.push_back(key);
        }
    }

    /// Begins to read wanted windows while there is room. Says whether there is room for more.
    pub(super) fn read_ahead(&mut self) -> bool {
        while let Some(key) = self.waiting.front().copied() {
            let cost = self.loader.sources[key.source as usize].cost(key);
            if self.ahead > 0 && self.ahead + cost > self.limit {
                return false;
            }
            self.waiting.pop_front();
            if !self.tokens.contains_key(&key) {
                let slot = Slot { ahead: cost, ..self.loader.tokens(key) };
                self.ahead += cost;
                self.tokens.insert(key, slot);
            }
        }
        self.ahead < self.limit
    }

    /// Forgets what no sample from `sampler` on needs.
    pub(super) fn forget_before(&mut self, sampler: &Sampler) {
        let passed = |key: &WindowKey| {
            let (epoch, place) = sampler.place(key.source, key.lane);
            (key.epoch, key.window) < (epoch, place.window)
        };
        for (_, slot) in self.tokens.extract_if(|key, _| passed(key)) {
            self.ahead -= slot.ahead;
        }
        for (_, slot) in self.sizes.extract_if(|key, _| passed(key)) {
            self.ahead -= slot.ahead;
        }
        self.waiting.retain(|key| !passed(key));
    }

    /// Returns what windows are loaded with.
    pub(super) fn ambient(&self) -> &Arc<dyn Ambient> {
        &self.loader.ambient
    }

    /// Returns the dataset of a window, and the path of its first file.
    pub(super) fn names(&self, key: WindowKey) -> (String, String) {
        let source = &self.loader.sources[key.source as usize];
        (source.target.clone(), source.first_path(key))
    }

    fn count_sizes(&mut self, key: WindowKey, sizes: &Arc<[ItemSize]>) {
        if let Some(slot) = self.sizes.get_mut(&key).filter(|slot| slot.ahead == 0) {
            slot.ahead = size_of_val(&**sizes) as u64;
            self.ahead += slot.ahead;
        }
    }
}
