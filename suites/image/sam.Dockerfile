# `sam local` puts AWS's emulator into an image by a shell, as the image's user. Ours has no shell and a user without rights, so for
# `sam local`, and for nothing else, both are added. The context is a folder with a static busybox.
ARG SERVICE=reranker:lambda

# hadolint ignore=DL3006
FROM ${SERVICE}
COPY busybox /bin/sh
COPY busybox /bin/mv
COPY busybox /bin/chmod
# hadolint ignore=DL3002
USER 0:0
