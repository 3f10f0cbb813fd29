/* abi.c: publishes through the C ABI and waits, as a store plugin does.
 *
 * Owns: a check that the generated header and the static library fit together. What can hurt: nothing outside its own
 * ring. It prints what it did; the Rust side of the test (abi.rs) is the agent. Exit code 0 is success. */
#include "understudy_ring.h"

#include <stdio.h>
#include <string.h>

#define CHECK(condition) do { if (!(condition)) { printf("line %d: %s\n", __LINE__, #condition); return 1; } } while (0)

int main(int argc, char **argv)
{
	struct us_ring *ring = (struct us_ring *)&ring, *again = NULL;
	struct us_ring_policy policy;
	struct us_ring_record record;
	struct us_ring_completion completion;
	struct us_blob_hasher *hasher;
	const uint8_t *account = (const uint8_t *)"ada@example.test";
	unsigned char hash[32];
	uint64_t intent = 0;

	CHECK(argc == 2);

	/* Null everywhere. */
	memset(&policy, 0, sizeof(policy));
	memset(&record, 0, sizeof(record));
	memset(&completion, 0, sizeof(completion));
	CHECK(us_ring_open(NULL, &ring) == US_RING_E_INVALID);
	CHECK(us_ring_open(argv[1], NULL) == US_RING_E_INVALID);
	us_ring_close(NULL);
	us_ring_forget(NULL, completion);
	CHECK(us_ring_policy_generation(NULL) == 0);
	CHECK(us_ring_agent_alive(NULL) == 0);
	CHECK(us_ring_account_open(NULL, NULL, 0, 0, 0, NULL) == US_RING_E_INVALID);
	CHECK(us_ring_intent_begin(NULL, NULL, 0, NULL, 0, 0, 0, 0, NULL) == US_RING_E_INVALID);
	CHECK(us_ring_intent_end(NULL, NULL, 0, 0, 0) == US_RING_E_INVALID);
	CHECK(us_ring_publish(NULL, NULL, NULL) == US_RING_E_INVALID);
	CHECK(us_ring_wait(NULL, completion, 0, 0) == US_RING_E_INVALID);
	CHECK(us_ring_mark_gap(NULL, NULL, 0) == US_RING_E_INVALID);
	us_blob_hasher_update(NULL, NULL, 0);
	us_blob_hasher_finish(NULL, NULL);
	us_blob_hasher_free(NULL);

	CHECK(us_ring_open("/nonexistent/ring", &ring) == US_RING_E_ABSENT);
	CHECK(ring == NULL);
	CHECK(us_ring_open("/dev/null", &ring) == US_RING_E_OPEN);
	CHECK(us_ring_is_fenced(NULL) == 0);
	CHECK(us_ring_strerror(US_RING_E_OPEN) != NULL && us_ring_strerror(12345) != NULL);

	CHECK(us_ring_open(argv[1], &ring) == US_RING_OK);
	CHECK(us_ring_open(argv[1], &again) == US_RING_OK);
	us_ring_close(again);
	CHECK(us_ring_account_open(ring, account, 16, 1, 10000, &policy) == US_RING_OK);
	CHECK(policy.replicated == 1 && policy.level == US_RING_LEVEL_PEER && policy.peers == 2);
	CHECK(policy.generation == us_ring_policy_generation(ring));
	CHECK(us_ring_agent_alive(ring) == 1);
	CHECK(us_ring_is_fenced(ring) == 0);

	CHECK(us_ring_intent_begin(ring, account, 16, (const uint8_t *)"box", 3, 2, policy.on_full, 0, &intent) == US_RING_OK);
	record.account = account;
	record.account_bytes = 16;
	record.payload = (const uint8_t *)"saved";
	record.payload_bytes = 5;
	record.intent = intent;
	record.captured_wall_ns = 3;
	record.on_full = policy.on_full;
	CHECK(us_ring_publish(ring, &record, &completion) == US_RING_OK);
	CHECK(us_ring_wait(ring, completion, 10000, US_RING_FULL_WAIT) == US_RING_REPLICATED);
	CHECK(us_ring_wait(ring, completion, 1, US_RING_FULL_WAIT) == US_RING_E_TIMED_OUT);

	record.payload_bytes = US_RING_RECORD_BYTES_MAX;
	record.payload = NULL;
	CHECK(us_ring_publish(ring, &record, NULL) == US_RING_E_INVALID);
	record.on_full = 9;
	record.payload_bytes = 0;
	CHECK(us_ring_publish(ring, &record, NULL) == US_RING_E_INVALID);
	us_ring_close(ring);

	hasher = us_blob_hasher_new();
	us_blob_hasher_update(hasher, (const uint8_t *)"a", 1);
	us_blob_hasher_update(hasher, (const uint8_t *)"bc", 2);
	us_blob_hasher_finish(hasher, hash);
	us_blob_hasher_free(hasher);
	/* BLAKE3 of "abc", from its published test vectors' tool. */
	CHECK(hash[0] == 0x64 && hash[1] == 0x37 && hash[2] == 0xb3 && hash[31] == 0x85);
	/* The check value of CRC-32C. */
	CHECK(us_crc32c(0, (const uint8_t *)"123456789", 9) == 0xE3069283u);
	printf("ok\n");
	return 0;
}
