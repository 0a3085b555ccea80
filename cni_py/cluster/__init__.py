"""Where nodes come from: files, etcd, Kubernetes, each a `model.peers.Source`. What they say is hostile until read."""
