# syntax=docker/dockerfile:1
# torchere for the CPU, and for NVIDIA GPUs with TensorRT:
#
#     docker build --target cpu --tag torchere:cpu .
#     docker build --target gpu --tag torchere:gpu .
#     docker run --rm -p 8000:8000 -v "$PWD/models:/models:ro" -v torchere-cache:/var/cache/torchere torchere:cpu
#
# Every package is pinned by a lock (make lock). The service runs as uid 1000, with a read-only root where it is asked:
# it writes to /var/cache/torchere (compiled models: keep it) and /tmp.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

# ---- CPU: PyTorch without CUDA, 200 MB instead of 3 GB
# checkov:skip=CKV_DOCKER_7: the tag is in the argument above
FROM ${PYTHON_IMAGE} AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY deploy/container/install.sh deploy/container/requirements-cpu.txt deploy/container/
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY compiler compiler
COPY service service
RUN deploy/container/install.sh /opt/torchere deploy/container/requirements-cpu.txt --extra-index-url "${TORCH_INDEX}"

FROM ${PYTHON_IMAGE} AS cpu
# A C++ compiler, which AOTInductor needs to build the fastest artifacts, and an init that reaps what builders leave.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 torchere \
    && useradd --uid 1000 --gid 1000 --create-home torchere \
    && install --directory --owner=torchere --group=torchere /var/cache/torchere /models
COPY --from=build-cpu /opt/torchere /opt/torchere
ENV PATH=/opt/torchere/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TORCHERE_HOST=0.0.0.0 \
    TORCHERE_MODEL_REPOSITORY=/models \
    TORCHERE_CACHE_DIR=/var/cache/torchere \
    TORCHERE_LOG_FORMAT=json
USER 1000:1000
WORKDIR /home/torchere
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["torchere", "health"]
ENTRYPOINT ["tini", "--", "torchere"]
CMD ["serve"]

# ---- GPU: PyTorch with CUDA, and Torch-TensorRT
FROM ${CUDA_IMAGE} AS base-gpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv python3-dev g++ tini \
    && rm -rf /var/lib/apt/lists/*

FROM base-gpu AS build-gpu
ARG TENSORRT_INDEX=https://pypi.nvidia.com
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY deploy/container/install.sh deploy/container/requirements-gpu.txt deploy/container/
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY compiler compiler
COPY service service
RUN deploy/container/install.sh /opt/torchere deploy/container/requirements-gpu.txt --extra-index-url "${TENSORRT_INDEX}"

FROM base-gpu AS gpu
# Ubuntu's image has a user of uid 1000 already.
RUN userdel --remove ubuntu \
    && groupadd --gid 1000 torchere \
    && useradd --uid 1000 --gid 1000 --create-home torchere \
    && install --directory --owner=torchere --group=torchere /var/cache/torchere /models
COPY --from=build-gpu /opt/torchere /opt/torchere
ENV PATH=/opt/torchere/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TORCHERE_HOST=0.0.0.0 \
    TORCHERE_MODEL_REPOSITORY=/models \
    TORCHERE_CACHE_DIR=/var/cache/torchere \
    TORCHERE_LOG_FORMAT=json
USER 1000:1000
WORKDIR /home/torchere
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["torchere", "health"]
ENTRYPOINT ["tini", "--", "torchere"]
CMD ["serve"]
