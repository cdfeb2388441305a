"""torchere as an application of Ray Serve: a deployment for each model, before them one that speaks HTTP and gRPC."""
