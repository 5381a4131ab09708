#!/usr/bin/env python3
"""Makes a webhook, watches its deliveries, sends a test and deletes it, over gRPC. See README.md."""

import os
import queue
import sys
import threading
import time
import uuid

import grpc

from linkbreakers.webhooks.v1 import deliveries_pb2, deliveries_pb2_grpc, webhooks_pb2, webhooks_pb2_grpc

# Every call ends by then, whatever happens to the network.
DEADLINE = 10.0
# How long the test may be on its way.
ARRIVAL = 20.0


def connect(url):
    scheme, _, address = url.partition("://")
    if scheme == "http":
        return grpc.insecure_channel(address)
    authorities = None
    if "WEBHOOKS_CA" in os.environ:
        with open(os.environ["WEBHOOKS_CA"], "rb") as file:
            authorities = file.read()
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities))


def call(method, request, token):
    """One call. What is unavailable is asked again: looking is safe, and what makes something has a key."""
    pause = 0.1
    end = time.monotonic() + DEADLINE
    while True:
        try:
            left = max(0.001, end - time.monotonic())
            return method(request, timeout=left, metadata=[("authorization", "Bearer " + token)])
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 2.0)


def watch(stream, reports):
    try:
        for report in stream:
            reports.put(report)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.CANCELLED:
            reports.put(error)


def delivered(reports, delivery_id):
    """The report that this delivery has arrived."""
    end = time.monotonic() + ARRIVAL
    while True:
        report = reports.get(timeout=max(0.001, end - time.monotonic()))
        if isinstance(report, grpc.RpcError):
            raise report
        state = deliveries_pb2.DeliveryState.Name(report.delivery.state)
        print("tail      %s  %s" % (report.delivery.id, state))
        if report.delivery.id == delivery_id and state == "DELIVERY_STATE_DELIVERED":
            return report


def main():
    token = os.environ["WEBHOOKS_TOKEN"]
    with connect(os.environ["WEBHOOKS_GRPC_URL"]) as channel:
        webhooks = webhooks_pb2_grpc.WebhookServiceStub(channel)
        deliveries = deliveries_pb2_grpc.DeliveryServiceStub(channel)
        made = call(
            webhooks.CreateWebhook,
            webhooks_pb2.CreateWebhookRequest(
                name="from Python", endpoint_url=os.environ["WEBHOOKS_ENDPOINT"], idempotency_key=str(uuid.uuid4())
            ),
            token,
        )
        webhook = made.webhook
        print("made      %s  secret %s…" % (webhook.id, made.secret[:9]))
        try:
            tail = deliveries.TailDeliveries(
                deliveries_pb2.TailDeliveriesRequest(webhook_id=webhook.id),
                metadata=[("authorization", "Bearer " + token)],
            )
            # The answer's head says that the tail is open.
            tail.initial_metadata()
            reports = queue.Queue()
            threading.Thread(target=watch, args=(tail, reports), daemon=True).start()

            test = call(
                deliveries.TestWebhook,
                deliveries_pb2.TestWebhookRequest(webhook_id=webhook.id, idempotency_key=str(uuid.uuid4())),
                token,
            )
            print("test      %s" % test.delivery.id)
            delivered(reports, test.delivery.id)
            tail.cancel()

            whole = call(deliveries.GetDelivery, deliveries_pb2.GetDeliveryRequest(id=test.delivery.id), token)
            for attempt in whole.attempts:
                print("attempt   %d  %d  %.1f ms" % (attempt.number, attempt.status_code, attempt.timings.total_us / 1000))
            health = call(
                webhooks.GetWebhookHealth, webhooks_pb2.GetWebhookHealthRequest(webhook_id=webhook.id), token
            ).health
            print("health    %s  %d failures in a row" % (health.status_label, health.consecutive_failures))
        finally:
            call(webhooks.DeleteWebhook, webhooks_pb2.DeleteWebhookRequest(id=webhook.id), token)
            print("deleted   %s" % webhook.id)
    try:
        with connect(os.environ["WEBHOOKS_GRPC_URL"]) as channel:
            stub = webhooks_pb2_grpc.WebhookServiceStub(channel)
            call(stub.GetWebhook, webhooks_pb2.GetWebhookRequest(id=webhook.id), token)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        print("gone      request %s" % dict(error.initial_metadata() or ()).get("x-request-id"))
        return 0
    print("the webhook is still there", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
