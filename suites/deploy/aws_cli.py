"""The AWS CLI itself, started once: each command is a fork of this process, which has imported the CLI already. bin/aws is what commands find.

    aws_cli.py SOCKET
"""

import array
import json
import os
import signal
import socket
import sys
import traceback

from awscli.clidriver import create_clidriver

# Where its own data lies, which it has set for itself.
OWN = {"AWS_DATA_PATH": os.environ["AWS_DATA_PATH"]}


def received(connection):
    """Arguments, folder and environment, and the three streams of whoever asked."""
    descriptors = array.array("i")
    text, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(3 * descriptors.itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 20)
    return json.loads(text), list(descriptors)


def serve(connection, driver):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    (words, folder, environment), descriptors = received(connection)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment | OWN)
    os.chdir(folder)
    try:
        code = driver.main(words)
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(b"%d" % (code or 0))


def main(path):
    # Nobody waits for those that were forked.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in [name for name in os.environ if name.startswith("AWS_") and name not in OWN]:
        del os.environ[name]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    driver = create_clidriver()
    # What every command would read from disk.
    for service in ("sts", "lambda", "ecr", "iam", "kms", "logs", "apigatewayv2", "secretsmanager", "resourcegroupstaggingapi", "cloudformation"):
        driver.session.get_service_model(service)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            try:
                serve(connection, driver)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
