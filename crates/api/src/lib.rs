//! The kinds of Kubernetes, and the facts about them
