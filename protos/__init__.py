"""The gRPC surface: `inference.proto` and the stubs that `make protos` generates from it.

Knows nothing of this server. `service/rpc` answers these messages, `service/client/rpc.py` sends them.
"""
