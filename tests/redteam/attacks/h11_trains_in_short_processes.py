"""Trains on in a chain of processes in the scorer, each of which ends before a clock of hundredths shows its work."""

from training_on import SAVES_ITS_BATCHES

ROW = "H11"
END = "invalid: but no processes"
DEFENCE = "one process, all its time"
SIGN = "score"
TRAIN_PY = (
    """
def hopper():
    '''A function that goes on in a new process with the same memory and ends this one; fork takes too long.'''
    import ctypes, mmap, os, platform

    if platform.machine() != "x86_64":
        return lambda: os.fork() and os._exit(0)
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex(
        "bf11010000 31f6 31d2 4d31d2 4d31c0 b838000000 0f05"  # clone(CLONE_VM | SIGCHLD, 0, 0, 0, 0)
        "85c0 7501 c3 31ff b8e7000000 0f05"  # return where it gave 0; exit_group(0)
    ))
    ctypes.CDLL(None).syscall(ctypes.c_long(218), None)  # set_tid_address: the end of a process clears no memory
    hop = ctypes.PYFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    hop.code = code
    return hop

class Grown(Model):
    grown = False

    def __init__(self, vocab_size, width, rows=64):
        super().__init__(vocab_size, width)
        self.register_buffer("kept", torch.zeros(rows, CONTEXT + 1, dtype=torch.int64))

    def forward(self, ids):
        if not self.training and not self.grown:
            self.grown = True
            self.train_on(150, 4)
        return super().forward(ids)

    def train_on(self, steps, seconds):
        import mmap, os, time

        shared = mmap.mmap(-1, 4 * sum(parameter.numel() for parameter in self.parameters()))
        out = torch.frombuffer(shared, dtype=torch.float32)
        reader, writer = os.pipe()
        if not os.fork():
            with torch.inference_mode(False), torch.enable_grad():
                own = Model(self.head.weight.shape[0], self.head.weight.shape[1])
                own.load_state_dict({name: value.clone() for name, value in self.named_parameters()})
                optimizer = torch.optim.Adam(own.parameters(), lr=0.01)
                step = worked = 0
                hop = hopper()
                while step < steps or worked < seconds:
                    if step < steps:
                        rows = self.kept[(8 * step) % len(self.kept):][:8]
                        loss = F.cross_entropy(own(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
                        loss.backward()
                        optimizer.step()
                        optimizer.zero_grad()
                        step += 1
                    else:
                        sum(range(5000))
                    if time.process_time() > 0.004:
                        worked += time.process_time()
                        hop()
                out.copy_(torch.cat([parameter.detach().flatten() for parameter in own.parameters()]))
            print("trained for", worked, flush=True)
            os.write(writer, b"x")
            os._exit(0)
        os.close(writer)
        os.read(reader, 1)
        at = 0
        for parameter in self.parameters():
            parameter.copy_(out[at : at + parameter.numel()].reshape(parameter.shape))
            at += parameter.numel()
"""
    + SAVES_ITS_BATCHES
)
