// Runs one kernel on the CPU: NAME BLOCKS_X BLOCKS_Y THREADS BACKWARDS, then its arguments from standard input: a letter each, `i` and `f`
// with 4 bytes, `n` for no pointer, `b` with a count of bytes (8) and the bytes. Writes all the buffers to standard output.
#include "../kernels/kernels.cu"

#include <deque>
#include <string>

static void read_all(void *to, size_t size) {
    if (fread(to, 1, size, stdin) != size) {
        fprintf(stderr, "an argument is missing\n");
        exit(1);
    }
}

// Each argument's bytes; of a buffer, its address.
struct Arguments {
    std::deque<std::vector<char>> buffers;
    template <class T>
    T next() {
        char kind;
        read_all(&kind, 1);
        T out{};
        if constexpr (std::is_pointer_v<T>) {
            if (kind == 'n') return out;
            uint64_t size;
            read_all(&size, 8);
            buffers.emplace_back(size);
            read_all(buffers.back().data(), size);
            out = (T)buffers.back().data();
            if (kind != 'b') exit(1);
        } else {
            read_all(&out, sizeof out);
            if (kind != (std::is_same_v<T, float> ? 'f' : 'i')) exit(1);
        }
        return out;
    }
};

template <class... T>
static std::function<void()> bound(void (*kernel)(T...), Arguments &arguments) {
    // Braces keep the order.
    std::tuple<T...> all{arguments.next<T>()...};
    return [=] { std::apply(kernel, all); };
}

int main(int, char **argv) {
    Arguments arguments;
    std::string name = argv[1];
    std::function<void()> body;
#define KNOWN(kernel) if (name == #kernel) body = bound(kernel, arguments);
#define OF_TYPE_KNOWN(type)                                                                                              \
    KNOWN(attention_##type##_32_1_4) KNOWN(attention_##type##_32_2_4) KNOWN(attention_##type##_64_1_4) KNOWN(attention_##type##_64_2_4) KNOWN(add_norm_##type##_3) \
    KNOWN(add_norm_##type##_8) KNOWN(embed_##type##_3) KNOWN(embed_##type##_8) KNOWN(bias_gelu_##type) KNOWN(narrow_##type)
    OF_TYPE_KNOWN(f16)
    OF_TYPE_KNOWN(bf16)
    KNOWN(logits_f32)
    if (!body) {
        fprintf(stderr, "there is no kernel %s\n", argv[1]);
        return 1;
    }
    emulator::launch(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), body);
    for (auto &buffer : arguments.buffers) fwrite(buffer.data(), 1, buffer.size(), stdout);
    return 0;
}
