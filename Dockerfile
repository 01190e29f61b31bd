# The image of CorrFractal. CPU by default; for NVIDIA GPUs: --build-arg ACCELERATOR=gpu
#
#   docker build -t corrfractal .
#   docker run --rm --init --shm-size=1g -v "$PWD:/data" --user "$(id -u)" corrfractal demo --out /data/demo
#
# HEALTHCHECK is part of Docker's image format; buildah and podman keep it with `--format docker`.
ARG ACCELERATOR=cpu

FROM python:3.11-slim AS base-cpu

FROM python:3.11-slim AS base-gpu
# The driver comes from the host (NVIDIA container toolkit); the CUDA libraries come with torch.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# ---- everything that needs a network, a compiler or a cache stays in this stage
FROM python:3.11-slim AS build
ARG ACCELERATOR
# Where torch for CPU lies; empty: the usual index, whose Linux build is the one for CUDA.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG FAISS_GPU=faiss-gpu-cu12==1.14.1.post1
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv
WORKDIR /app
COPY requirements.lock pyproject.toml README.md LICENSE ./
# What the program itself needs, in the versions of the lock, which has the checkers and test tools too. One faiss and one
# torch, never both flavours: a torch that is already there in the version of the lock (2.x.y+cpu satisfies ==2.x.y) is
# kept by the second call of pip.
RUN set -eu; \
    torch="$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements.lock)"; \
    test -n "$torch"; \
    case "$ACCELERATOR" in \
      cpu) pip install --no-deps ${TORCH_CPU_INDEX:+--index-url "$TORCH_CPU_INDEX"} "$torch"; faiss= ;; \
      gpu) faiss="$FAISS_GPU" ;; \
      *) echo "ACCELERATOR must be cpu or gpu, got '$ACCELERATOR'" >&2; exit 1 ;; \
    esac; \
    python -c "import sys, tomllib; file = tomllib.load(open('pyproject.toml', 'rb')); p = file['project']; \
        x = p['optional-dependencies']; \
        print(*p['dependencies'], *x[sys.argv[1]], *x['s3'], *file['build-system']['requires'], sep='\n')" \
      "$ACCELERATOR" > /tmp/parts.txt; \
    sed 's/ \\$//; /--hash=/d' requirements.lock > /tmp/versions.txt; \
    pip install -c /tmp/versions.txt -r /tmp/parts.txt $faiss; \
    test "$(pip list --format=freeze | grep -c '^faiss-')" = 1
COPY corrfractal corrfractal
COPY pipeline pipeline
COPY training training
COPY inference inference
COPY studio studio
COPY cluster cluster
# Editable: the command and its version are installed, the code stays in its source folder.
RUN pip install --no-deps --no-build-isolation --editable . && python -m compileall -q corrfractal pipeline training inference studio cluster

# ---- the image itself
FROM base-${ACCELERATOR} AS final
ARG ACCELERATOR
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="corrfractal" \
      org.opencontainers.image.description="Self-supervised dense video correspondence: shards, training, propagation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      corrfractal.accelerator="$ACCELERATOR"
# PYTHONPATH: the top-level names are generic, and so the source folder comes before every installed package.
# HOME: with a user id of the host (--user) there is no entry in /etc/passwd to name it.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GIT_PYTHON_REFRESH=quiet \
    RAY_USAGE_STATS_ENABLED=0 \
    NUMBA_CACHE_DIR=/tmp/numba \
    HOME=/data
RUN useradd --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin corrfractal \
    && mkdir /data \
    && chmod 1777 /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
USER 10001
WORKDIR /data
RUN export HOME=/tmp \
    && corrfractal --version \
    && python -c "import av, cv2, decord, faiss, mlflow, ray, sklearn, torch, webdataset"
HEALTHCHECK --interval=5m --timeout=2m --start-period=30s CMD ["corrfractal", "doctor", "--out", "/data"]
ENTRYPOINT ["corrfractal"]
CMD ["--help"]
