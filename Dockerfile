# lightning-tl with rendering, training and Ray. Targets: cpu (default) and cuda.
#   docker build -t lightning-tl .
#   docker build -t lightning-tl:cuda --target cuda .
FROM python:3.11-slim-bookworm AS installed
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# the libraries that Blender needs; versions are those of the base image's release
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      libx11-6 libxrender1 libxxf86vm1 libxfixes3 libxi6 libxext6 libxkbcommon0 libsm6 libice6 libgl1 libgomp1 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 tl \
 && mkdir /work \
 && chown tl /work
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
# PyPI's PyTorch brings CUDA's libraries; another index has builds without them, or for an older driver (docs/containers.md)
ARG TORCH_INDEX=""
# what lightning-tl needs comes first, so that a change of the sources does not install it again
RUN --mount=type=bind,source=pyproject.toml,target=/src/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/src/constraints.txt \
    python -c 'import tomllib; project = tomllib.load(open("/src/pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
print(*project["dependencies"], *extras["render"], *extras["cluster"], *extras["tensorboard"], sep="\n")' \
      > /tmp/requirements.txt \
 && pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
      --constraint /src/constraints.txt --requirement /tmp/requirements.txt \
 && rm /tmp/requirements.txt
RUN --mount=type=bind,target=/src \
    pip install --no-deps /src \
 && pip check
USER 1000
WORKDIR /work
ENTRYPOINT ["lightning-tl"]
CMD ["--help"]

# the host brings the driver (docker run --gpus all)
FROM installed AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics

# for machines without a GPU
FROM installed AS cpu
