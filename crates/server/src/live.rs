//! Configuration that may be exchanged while the server runs, and what is made of it.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// A configuration; whoever uses it sees a new one with the next request.
#[derive(Debug)]
pub struct Live<T>(ArcSwap<T>);

impl<T> Live<T> {
    /// Begins with `config`.
    pub fn shared(config: T) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(config)))
    }

    /// What holds now.
    pub fn get(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Goes on with another one.
    pub fn replace(&self, config: T) {
        self.0.store(Arc::new(config));
    }
}

/// What is made of a configuration, made anew when that is exchanged.
pub(crate) struct Derived<T, D> {
    live: Arc<Live<T>>,
    made: ArcSwap<(Arc<T>, Arc<D>)>,
    make: Box<dyn Fn(&T) -> D + Send + Sync>,
}

impl<T, D> Derived<T, D> {
    pub(crate) fn new(live: Arc<Live<T>>, make: impl Fn(&T) -> D + Send + Sync + 'static) -> Self {
        let config = live.get();
        let made = Arc::new(make(&config));
        Self { live, made: ArcSwap::from_pointee((config, made)), make: Box::new(make) }
    }

    /// As of the configuration that holds now.
    pub(crate) fn get(&self) -> Arc<D> {
        let made = self.made.load();
        let config = self.live.0.load();
        if Arc::ptr_eq(&made.0, &config) {
            return made.1.clone();
        }
        let fresh = Arc::new((self.make)(&config));
        self.made.store(Arc::new((Arc::clone(&config), fresh.clone())));
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_follows() {
        let live = Live::shared(2);
        let twice = Derived::new(live.clone(), |number: &i32| number * 2);
        let first = twice.get();
        assert!(*first == 4 && Arc::ptr_eq(&first, &twice.get()));
        live.replace(5);
        assert_eq!(*twice.get(), 10);
    }
}
