"""Generated from ``protos/lepton_mesh/etcd/v3``: the messages of etcd's v3 API in use here."""
