#include "formats/file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <numeric>
#include <vector>

#include "core/error.hpp"
#include "support/folder.hpp"

namespace reshard::formats {
namespace {

class FileTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_ / name; }

 private:
  test::Folder folder_;
};

std::vector<std::byte> pattern(std::size_t bytes) {
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 37 + i / 256);
  return data;
}

template <class Work>
void expect_error(Kind kind, const std::vector<std::string>& parts, Work&& work) {
  try {
    work();
    ADD_FAILURE() << "no error, wanted " << parts.front();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

/// Moves at most 7 bytes a call and is interrupted before every second one.
struct Stuttering : SystemCalls {
  mutable int calls = 0;
  bool interrupted() const {
    errno = EINTR;
    return ++calls % 2 == 1;
  }
  ssize_t pread(int descriptor, void* to, std::size_t bytes, off_t offset) const override {
    if (interrupted()) return -1;
    return SystemCalls::pread(descriptor, to, std::min<std::size_t>(bytes, 7), offset);
  }
  ssize_t pwrite(int descriptor, const void* from, std::size_t bytes, off_t offset) const override {
    if (interrupted()) return -1;
    return SystemCalls::pwrite(descriptor, from, std::min<std::size_t>(bytes, 7), offset);
  }
};

struct FullDisk : SystemCalls {
  static int full() {
    errno = ENOSPC;
    return -1;
  }
  ssize_t pwrite(int, const void*, std::size_t, off_t) const override { return full(); }
  int ftruncate(int, off_t) const override { return full(); }
  int fsync(int) const override { return full(); }
  int rename(const char*, const char*) const override { return full(); }
  int exchange(const char*, const char*) const override {
    errno = EINVAL;
    return -1;
  }
};

TEST_F(FileTest, WritesAndReadsBackAtOffsets) {
  const std::vector<std::byte> data = pattern(5000);
  const File file = File::create(path("a"));
  file.write_at(100, data);
  EXPECT_EQ(file.size(), 5100u);
  std::vector<std::byte> back(4000);
  file.read_at(600, back);
  EXPECT_TRUE(std::equal(back.begin(), back.end(), data.begin() + 500));
  file.sync();
  file.drop_cache();
  file.resize(50);
  EXPECT_EQ(File::open_read(path("a")).size(), 50u);
  file.read_at(50, {});
}

TEST_F(FileTest, LoopsOverShortAndInterruptedCalls) {
  const std::vector<std::byte> data = pattern(1000);
  const Stuttering calls;
  const File file = File::create(path("a"), calls);
  file.write_at(3, data);
  std::vector<std::byte> back(1000);
  file.read_at(3, back);
  EXPECT_EQ(back, data);
}

TEST_F(FileTest, EndOfFileNamesPathOffsetAndWanted) {
  write_text(path("a"), "0123456789");
  const File file = File::open_read(path("a"));
  std::vector<std::byte> back(8);
  expect_error(Kind::io, {path("a"), "read 8 bytes at 5", "ends after 5"},
               [&] { file.read_at(5, back); });
}

TEST_F(FileTest, NamesPathAndCause) {
  expect_error(Kind::io, {path("none"), "open", "No such file"},
               [&] { File::open_read(path("none")); });
  expect_error(Kind::io, {path("none"), "open", "No such file"},
               [&] { File::open_write(path("none")); });
  write_text(path("a"), "x");
  expect_error(Kind::io, {path("a"), "create", "File exists"}, [&] { File::create(path("a")); });
  expect_error(Kind::io, {path("a"), "rename to", "No such file"},
               [&] { rename(path("a"), path("none/b")); });
  expect_error(Kind::io, {path("a"), "exchange with", "No such file"},
               [&] { exchange(path("a"), path("none")); });
  const File file = File::open_read(path("a"));
  expect_error(Kind::io, {path("a"), "write 1 bytes at 9", "Bad file descriptor"},
               [&] { file.write_at(9, pattern(1)); });
}

TEST_F(FileTest, ReadsRegularFilesAlone) {
  write_text(path("file"), "0123");
  std::filesystem::create_symlink("file", path("link"));
  EXPECT_EQ(read_text(path("link"), 10), "0123");
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  std::filesystem::create_directory(path("folder"));
  std::filesystem::create_symlink("gone", path("nowhere"));
  std::filesystem::create_symlink("circle", path("circle"));
  std::filesystem::create_symlink("/dev/zero", path("zeros"));
  for (const auto& [name, word] :
       {std::pair("fifo", "is a FIFO, wanted a file"), std::pair("folder", "is a folder"),
        std::pair("nowhere", "is a link that leads nowhere"),
        std::pair("circle", "is a circle of links"), std::pair("zeros", "is a device")}) {
    expect_error(Kind::input, {path(name), word}, [&] { File::open_read(path(name)); });
    expect_error(Kind::input, {path(name), word}, [&] { require_file(path(name)); });
  }
  EXPECT_NO_THROW(require_file(path("none")));
}

TEST_F(FileTest, WritesNothingAtTheEndOfALink) {
  write_text(path("file"), "mine");
  std::filesystem::create_symlink("file", path("link"));
  expect_error(Kind::io, {path("link"), "open"}, [&] { File::open_write(path("link")); });
  expect_error(Kind::io, {path("link"), "create", "File exists"},
               [&] { File::create(path("link")); });
  write_text(path("link"), "new");
  EXPECT_EQ(read_text(path("file"), 10), "mine");
  EXPECT_FALSE(std::filesystem::is_symlink(path("link")));
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  expect_error(Kind::io, {path("fifo"), "is a FIFO"}, [&] { File::open_write(path("fifo")); });
}

TEST_F(FileTest, FullDiskIsAnErrorEverywhere) {
  const FullDisk calls;
  const File file = File::create(path("a"), calls);
  const std::string cause = "No space left";
  expect_error(Kind::io, {path("a"), cause}, [&] { file.write_at(0, pattern(4)); });
  expect_error(Kind::io, {path("a"), "resize to 8", cause}, [&] { file.resize(8); });
  expect_error(Kind::io, {path("a"), "fsync", cause}, [&] { file.sync(); });
  expect_error(Kind::io, {path("a"), "rename", cause},
               [&] { rename(path("a"), path("b"), calls); });
  EXPECT_FALSE(exchange(path("a"), path("b"), calls));
}

TEST_F(FileTest, MovesOwnTheDescriptor) {
  write_text(path("a"), "a");
  write_text(path("b"), "bb");
  File first = File::open_read(path("a"));
  File second = std::move(first);
  EXPECT_EQ(second.size(), 1u);
  second = File::open_read(path("b"));
  EXPECT_EQ(second.size(), 2u);
  EXPECT_EQ(second.path(), path("b"));
}

TEST_F(FileTest, RenamesAndExchanges) {
  write_text(path("a"), "old");
  write_text(path("b"), "new text");
  if (exchange(path("a"), path("b"))) {
    EXPECT_EQ(read_text(path("a"), 100), "new text");
    EXPECT_EQ(read_text(path("b"), 100), "old");
  }
  write_text(path("a"), "short");
  rename(path("a"), path("b"));
  sync_folder(path("."));
  EXPECT_EQ(read_text(path("b"), 5), "short");
  EXPECT_FALSE(std::filesystem::exists(path("a")));
}

TEST_F(FileTest, TextHasACap) {
  write_text(path("a"), "0123456789");
  expect_error(Kind::input, {path("a"), "10 bytes", "at most 9"}, [&] { read_text(path("a"), 9); });
  write_text(path("a"), "");
  EXPECT_EQ(read_text(path("a"), 0), "");
}

}  // namespace
}  // namespace reshard::formats
