"""The gRPC door: translates the Open Inference Protocol v2 to the plane and to control. Start with `server.py`.

Knows nothing of HTTP, engines or torch.
"""
